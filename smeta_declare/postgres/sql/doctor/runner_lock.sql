-- Who holds the runner's lock.
select a.pid, a.usename::text, a.application_name
from pg_catalog.pg_locks l
join pg_catalog.pg_stat_activity a on a.pid = l.pid
where l.locktype = 'advisory' and l.granted
  and l.classid = %(tool)s and l.objid = %(key)s
  and l.database = (select oid from pg_catalog.pg_database where datname = pg_catalog.current_database());
