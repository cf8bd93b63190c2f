-- Before a commit: the lock is still held by this process, and the transaction is the one that was begun.
select (select count(*) from pg_catalog.pg_locks
        where locktype = 'advisory' and pid = pg_catalog.pg_backend_pid()
          and classid = %(tool)s and objid = %(key)s and granted) > 0,
       pg_catalog.pg_current_xact_id()::text;
