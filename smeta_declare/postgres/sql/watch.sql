-- One look at our working connection from beside it: what it waits for, what it holds, how far a build is.
-- A relation that the working transaction made itself is not visible here, and nobody else can wait for it.
select waiting,
       case when waiting then (
           select pg_catalog.jsonb_agg(pg_catalog.jsonb_build_object(
                      'pid', blocker.pid, 'user', other.usename, 'application', other.application_name,
                      'state', other.state,
                      -- an ordinary role sees of it that it is nobody's and vacuums
                      'autovacuum', coalesce(other.backend_type = 'autovacuum worker',
                          other.usesysid is null and blocker.pid in (
                              select pid from pg_catalog.pg_stat_progress_vacuum
                              union all select pid from pg_catalog.pg_stat_progress_analyze)),
                      'age_s', extract(epoch from pg_catalog.clock_timestamp()
                                       - coalesce(other.xact_start, other.query_start))::int8,
                      'query', pg_catalog.left(other.query, 200)) order by blocker.pid)
           from pg_catalog.unnest(pg_catalog.pg_blocking_pids(%(pid)s)) as blocker (pid)
           left join pg_catalog.pg_stat_activity as other on other.pid = blocker.pid
           where blocker.pid <> pg_catalog.pg_backend_pid()  -- this very look
       ) end,
       (select pg_catalog.jsonb_object_agg(relation.oid::regclass::text, held.mode)
        from pg_catalog.pg_locks as held
        join pg_catalog.pg_class as relation on relation.oid = held.relation
        where held.pid = %(pid)s
          and held.granted
          and held.database = (select oid from pg_catalog.pg_database
                               where datname = pg_catalog.current_database())
          and held.mode in ('ShareLock', 'ShareRowExclusiveLock', 'ExclusiveLock', 'AccessExclusiveLock')
          and relation.relkind in ('r', 'p', 'm', 'v', 'f')
          and relation.relnamespace not in (select oid from pg_catalog.pg_namespace
                                            where nspname in ('pg_catalog', %(journal)s))),
       (select pg_catalog.jsonb_build_object(
                   'phase', phase, 'blocks_done', blocks_done, 'blocks_total', blocks_total,
                   'tuples_done', tuples_done, 'tuples_total', tuples_total,
                   'lockers_done', lockers_done, 'lockers_total', lockers_total)
        from pg_catalog.pg_stat_progress_create_index
        where pid = %(pid)s),
       (select setting::int4 from pg_catalog.pg_settings where name = 'deadlock_timeout')
from (select coalesce(wait_event_type = 'Lock', false) as waiting
      from pg_catalog.pg_stat_activity
      where pid = %(pid)s) as ours;
