-- Before a commit: the lock is ours, the transaction is the one that was begun, history and journal say what they must.
select ours.held and pg_catalog.pg_backend_pid() = %(pid)s,
       pg_catalog.pg_current_xact_id()::text,
       (select coalesce(pg_catalog.array_agg(version || ' ' || checksum order by version collate "C"), '{}') from {table}),
       (select count(*) from {journal}.step where run = %(run)s and state = 'done'),
       ours.others
from (select count(*) filter (where classid = %(tool)s and objid = %(key)s and objsubid = 2) > 0 as held,
             count(*) filter (where not (classid = %(tool)s and objid = %(key)s and objsubid = 2)) > 0 as others
      from pg_catalog.pg_locks
      where locktype = 'advisory' and pid = pg_catalog.pg_backend_pid() and granted) as ours;
