-- Before the batch, in its transaction: from the place where we left it, or not at all.
update {journal}.backfill
set digest = %(digest)s, pass = %(pass)s, lower = %(lower)s, upper = %(upper)s, run = %(run)s,
    state = case when %(done)s then 'done' else 'running' end, at = pg_catalog.clock_timestamp()
where history = %(history)s and version = %(version)s and direction = %(direction)s
  and position = %(position)s and round = %(round)s
  and pass = %(was_pass)s and lower is not distinct from %(was_lower)s and state = 'running'
returning (select count(*) from pg_catalog.pg_locks
           where locktype = 'advisory' and pid = pg_catalog.pg_backend_pid()
             and classid = %(tool)s and objid = %(key)s and objsubid = 2 and granted) > 0;
