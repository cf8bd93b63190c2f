-- Sessions that hold a lock which excludes even readers, on which tables, and how long their transaction has been
-- open (seconds; null: not visible). One that is making a table is not meant: nobody else can see that yet.
select l.pid, a.usename::text, a.application_name, a.state,
       extract(epoch from pg_catalog.clock_timestamp() - a.xact_start)::int,
       pg_catalog.array_agg(distinct c.oid::pg_catalog.regclass::text)
from pg_catalog.pg_locks l
join pg_catalog.pg_class c on c.oid = l.relation and c.relkind in ('r', 'p', 'm', 'v', 'f')
left join pg_catalog.pg_stat_activity a on a.pid = l.pid
where l.granted
  and l.mode = 'AccessExclusiveLock'
  and l.database = (select oid from pg_catalog.pg_database where datname = pg_catalog.current_database())
  and l.pid is not null
  and c.relpersistence <> 't'
group by 1, 2, 3, 4, 5
order by 5 desc nulls last, 1;
