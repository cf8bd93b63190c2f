-- Whom the pg_dump of a backup waits for in this database; nobody where it waits for nobody.
select blocker.pid, other.usename::text, other.application_name, other.state,
       coalesce(other.backend_type = 'autovacuum worker', false),
       extract(epoch from pg_catalog.clock_timestamp() - coalesce(other.xact_start, other.query_start))::int8,
       pg_catalog.left(other.query, 200)
from pg_catalog.pg_stat_activity as ours
cross join pg_catalog.unnest(pg_catalog.pg_blocking_pids(ours.pid)) as blocker (pid)
left join pg_catalog.pg_stat_activity as other on other.pid = blocker.pid
where ours.application_name = 'smeta pg_dump'
  and ours.datname = pg_catalog.current_database()
order by blocker.pid;
