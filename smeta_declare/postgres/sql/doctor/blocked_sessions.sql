-- Sessions of this database that wait for a lock: for how long (seconds), of what, and for whom (process 0 is a
-- prepared transaction).
select l.pid, a.usename::text, a.application_name,
       coalesce(extract(epoch from pg_catalog.clock_timestamp() - l.waitstart)::int, 0),
       l.relation::pg_catalog.regclass::text,
       (select pg_catalog.string_agg(
                   case when b.pid = 0 then 'a prepared transaction'
                        else pg_catalog.format('pid %s, user %s%s%s', b.pid, coalesce(s.usename, '?'),
                                 ', ' || nullif(s.application_name, ''),
                                 ', ' || s.state || ' for '
                                 || extract(epoch from pg_catalog.clock_timestamp() - s.xact_start)::int || ' s')
                   end, '; ' order by b.pid)
        from pg_catalog.unnest(l.blockers) as b(pid)
        left join pg_catalog.pg_stat_activity s on s.pid = b.pid),
       l.blockers
from (select distinct on (pid) pid, waitstart, relation, pg_catalog.pg_blocking_pids(pid) as blockers
      from pg_catalog.pg_locks where not granted order by pid, waitstart) as l
join pg_catalog.pg_stat_activity a on a.pid = l.pid
where a.datname = pg_catalog.current_database()
order by 4 desc, 1;
