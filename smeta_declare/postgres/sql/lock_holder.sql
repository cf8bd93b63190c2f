-- Who holds the runner's lock; what an ordinary role may see of it.
select l.pid, a.usename, a.application_name, a.client_addr::text, a.backend_start::timestamptz(0)::text
from pg_catalog.pg_locks l
left join pg_catalog.pg_stat_activity a on a.pid = l.pid
where l.locktype = 'advisory'
  and l.classid = %(tool)s and l.objid = %(key)s and l.objsubid = 2
  and l.database = (select oid from pg_catalog.pg_database where datname = pg_catalog.current_database())
  and l.granted;
