-- Transactions older than a limit that hold one of these tables, as far as our role may see their age.
select distinct pg_catalog.format(
           'pid %s, user %s%s: transaction open for %s s, on %s', a.pid, a.usename,
           case when a.application_name <> '' then ', ' || a.application_name else '' end,
           extract(epoch from pg_catalog.clock_timestamp() - a.xact_start)::int8, l.relation::regclass)
from pg_catalog.pg_locks as l
join pg_catalog.pg_stat_activity as a on a.pid = l.pid
where l.granted
  and l.relation in (select pg_catalog.to_regclass(name) from pg_catalog.unnest(%(tables)s::text[]) as name)
  and l.database = (select oid from pg_catalog.pg_database where datname = pg_catalog.current_database())
  and l.pid <> pg_catalog.pg_backend_pid()
  and a.xact_start < pg_catalog.clock_timestamp() - %(age_ms)s * interval '1 millisecond'
order by 1
limit 5;
