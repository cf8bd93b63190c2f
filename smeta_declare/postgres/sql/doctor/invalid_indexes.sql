-- Indexes that cost every write and serve no query; and who is building, rebuilding or dropping them right now:
-- whoever builds one on the table, or holds the index itself against vacuum. A partitioned one is invalid until every
-- partition has its part.
select pg_catalog.format('%I.%I', n.nspname, c.relname),
       i.indrelid::pg_catalog.regclass::text,
       c.relkind = 'I',
       c.relname ~ '_cc(new|old)[0-9]*$',
       exists (select from pg_catalog.pg_constraint where conindid = i.indexrelid),
       (select min(l.pid)
        from pg_catalog.pg_locks l
        where l.locktype = 'relation' and l.granted
          and l.database = (select oid from pg_catalog.pg_database where datname = pg_catalog.current_database())
          and l.mode = 'ShareUpdateExclusiveLock'
          and (l.relation = i.indexrelid
               or l.relation = i.indrelid
                  and l.pid in (select pid from pg_catalog.pg_stat_progress_create_index))),
       c.oid::int8
from pg_catalog.pg_index i
join pg_catalog.pg_class c on c.oid = i.indexrelid
join pg_catalog.pg_namespace n on n.oid = c.relnamespace
where not (i.indisvalid and i.indisready and i.indislive)
  and n.nspname !~ '^pg_(toast_)?temp_'
order by 1;
