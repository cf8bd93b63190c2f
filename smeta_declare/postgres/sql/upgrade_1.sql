-- Journal format 1 to 2: events of runs, kept beside them.
create table {journal}.event (
    id bigint generated always as identity primary key,
    run uuid not null references {journal}.run,
    at timestamptz not null default pg_catalog.clock_timestamp(),
    event text not null,
    facts jsonb not null
);
update {journal}.history set format = 2 where format = 1;
