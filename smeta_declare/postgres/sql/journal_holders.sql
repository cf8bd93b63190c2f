-- Who holds history or journal so that nobody may read them. Read without touching these tables.
select distinct a.pid, a.usename, a.application_name, a.client_addr::text, a.backend_start::timestamptz(0)::text
from pg_catalog.pg_locks l
join pg_catalog.pg_class c on c.oid = l.relation
left join pg_catalog.pg_stat_activity a on a.pid = l.pid
where l.granted
  and l.mode = 'AccessExclusiveLock'
  and l.database = (select oid from pg_catalog.pg_database where datname = pg_catalog.current_database())
  and (c.oid = pg_catalog.to_regclass(%(table)s)
       or c.relnamespace = (select oid from pg_catalog.pg_namespace where nspname = %(journal)s));
