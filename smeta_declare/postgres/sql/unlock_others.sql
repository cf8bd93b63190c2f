-- Advisory locks of the session that are not the runner's: a migration left them. Each once; they may be held twice.
select case
           when objsubid = 2 and mode = 'ExclusiveLock' then pg_catalog.pg_advisory_unlock(upper, lower)
           when objsubid = 2 then pg_catalog.pg_advisory_unlock_shared(upper, lower)
           when mode = 'ExclusiveLock' then pg_catalog.pg_advisory_unlock(whole)
           else pg_catalog.pg_advisory_unlock_shared(whole)
       end
from (select objsubid, mode, classid::int8::bit(32)::int4 as upper, objid::int8::bit(32)::int4 as lower,
             (classid::int8 << 32) | objid::int8 as whole
      from pg_catalog.pg_locks
      where locktype = 'advisory' and pid = pg_catalog.pg_backend_pid() and granted
        and not (classid = %(tool)s and objid = %(key)s and objsubid = 2)) as other;
