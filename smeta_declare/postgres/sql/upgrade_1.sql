-- Journal format 1 to 2: events of runs, kept beside them; how far backfills are.
-- IF NOT EXISTS: a restored `history` may be older than the tables beside it.
create table if not exists {journal}.event (
    run uuid not null references {journal}.run,
    at timestamptz not null default pg_catalog.clock_timestamp(),
    event text not null,
    facts jsonb not null
);
create table if not exists {journal}.backfill (
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
alter table {table} alter id drop identity if exists;
update {journal}.history set format = 2 where format = 1;
