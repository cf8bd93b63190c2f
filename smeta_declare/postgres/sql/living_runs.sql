-- Sessions of runs that are open: everybody may see the names of all sessions.
select a.pid, a.usename, a.application_name, a.client_addr::text, a.backend_start::timestamptz(0)::text
from {journal}.run r
join pg_catalog.pg_stat_activity a on a.application_name = pg_catalog.left('smeta/' || r.tool || ' run=' || r.id::text, 63)
where r.finished_at is null
  and a.pid <> pg_catalog.pg_backend_pid()
  and a.datname = pg_catalog.current_database();
