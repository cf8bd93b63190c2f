-- Before a commit: the lock is ours, the transaction is the one that was begun, history and journal say what they must.
select (select count(*) from pg_catalog.pg_locks
        where locktype = 'advisory' and pid = pg_catalog.pg_backend_pid()
          and classid = %(tool)s and objid = %(key)s and granted) > 0
           and pg_catalog.pg_backend_pid() = %(pid)s,
       pg_catalog.pg_current_xact_id()::text,
       (select coalesce(pg_catalog.array_agg(version || ' ' || checksum order by version collate "C"), '{}') from {table}),
       (select count(*) from {journal}.step where run = %(run)s and state = 'done');
