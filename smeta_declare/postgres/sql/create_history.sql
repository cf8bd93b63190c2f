-- What smeta keeps in a database: made once, under the runner's lock, in one transaction.
-- No sequence anywhere: in a database that was cloned from a template, one can hand out a number again after a crash.
-- The history table is for people; the journal is what runs are resumed from.
create schema if not exists {journal};
create table {journal}.history (
    id uuid primary key default pg_catalog.gen_random_uuid(),
    format integer not null,
    created_at timestamptz not null default pg_catalog.clock_timestamp(),
    single boolean not null default true unique check (single)
);
create table {journal}.run (
    id uuid primary key,
    environment text not null,
    direction text not null check (direction in ('forward', 'rollback')),
    request text not null,
    versions text[] not null,
    plan text not null,
    saved boolean not null,
    settings jsonb,
    tool text not null,
    started_at timestamptz not null default pg_catalog.clock_timestamp(),
    started_by text not null default session_user,
    finished_at timestamptz,
    outcome text
);
create table {journal}.step (
    history uuid not null references {journal}.history,
    version text not null,
    direction text not null check (direction in ('forward', 'rollback')),
    position integer not null,
    round integer not null,
    state text not null check (state in ('started', 'done')),
    steps integer not null,
    digest text not null,
    run uuid not null references {journal}.run,
    at timestamptz not null default pg_catalog.clock_timestamp(),
    kept jsonb,
    primary key (history, version, direction, position, round, state)
);
create table {journal}.event (
    run uuid not null references {journal}.run,
    at timestamptz not null default pg_catalog.clock_timestamp(),
    event text not null,
    facts jsonb not null
);
create table {journal}.backfill (
    history uuid not null references {journal}.history,
    version text not null,
    direction text not null check (direction in ('forward', 'rollback')),
    position integer not null,
    round integer not null,
    digest text not null,
    pass integer not null,
    lower text,
    upper text,
    rows bigint not null,
    state text not null check (state in ('running', 'done')),
    run uuid not null references {journal}.run,
    at timestamptz not null default pg_catalog.clock_timestamp(),
    primary key (history, version, direction, position, round)
);
create table {table} (
    id bigint not null unique,
    version text primary key,
    name text not null,
    description text not null,
    applied_at timestamptz not null default pg_catalog.clock_timestamp(),
    applied_by text not null default session_user,
    execution_time_ms bigint not null,
    checksum text not null,
    meaning text not null,
    inputs text not null,
    forward_sql text not null,
    rollback_sql text,
    validation_sql text,
    details jsonb not null
);
comment on table {table} is 'Applied migrations, kept by smeta; one row each. Do not edit.';
comment on schema {journal} is 'The journal of smeta: runs and their steps. Do not edit.';
insert into {journal}.history (format) values (4);
