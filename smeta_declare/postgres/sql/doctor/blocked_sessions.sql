-- Sessions of this database that wait for a lock: for how long (seconds), of what, and for whom.
select l.pid, a.usename::text, a.application_name,
       coalesce(extract(epoch from pg_catalog.clock_timestamp() - l.waitstart)::int, 0),
       l.relation::pg_catalog.regclass::text,
       (select pg_catalog.string_agg(
                   pg_catalog.format('pid %s, user %s%s', b.pid, coalesce(s.usename, '?'),
                                     ', ' || nullif(s.application_name, '')), '; ' order by b.pid)
        from pg_catalog.unnest(pg_catalog.pg_blocking_pids(l.pid)) as b(pid)
        left join pg_catalog.pg_stat_activity s on s.pid = b.pid)
from (select distinct on (pid) pid, waitstart, relation
      from pg_catalog.pg_locks where not granted order by pid, waitstart) as l
join pg_catalog.pg_stat_activity a on a.pid = l.pid
where a.datname = pg_catalog.current_database()
order by 4 desc, 1;
