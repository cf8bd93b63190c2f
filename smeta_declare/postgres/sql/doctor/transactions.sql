-- Transactions of this database that are open for some time: who, since when, since when they do nothing (seconds),
-- and for whom they wait.
select pid, usename::text, application_name, state,
       extract(epoch from pg_catalog.clock_timestamp() - xact_start)::int,
       case when state like 'idle in transaction%'
            then extract(epoch from pg_catalog.clock_timestamp() - state_change)::int end,
       pg_catalog.pg_blocking_pids(pid)
from pg_catalog.pg_stat_activity
where datname = pg_catalog.current_database()
  and pid <> pg_catalog.pg_backend_pid()
  and backend_type = 'client backend'
  and xact_start < pg_catalog.clock_timestamp() - pg_catalog.make_interval(secs => %(seconds)s)
order by xact_start;
