-- Invalid indexes that a REINDEX CONCURRENTLY of this scope left: their names end in _ccnew or _ccold.
-- https://www.postgresql.org/docs/current/sql-reindex.html#SQL-REINDEX-CONCURRENTLY
select index.oid::int8, index.oid::regclass::text
from pg_catalog.pg_index as i
join pg_catalog.pg_class as index on index.oid = i.indexrelid
join pg_catalog.pg_class as tab on tab.oid = i.indrelid
join pg_catalog.pg_namespace as space on space.oid = tab.relnamespace
where not i.indisvalid
  and index.relname ~ '_cc(new|old)[0-9]*$'
  and case %(scope)s
          when 'index' then i.indrelid = (select indrelid from pg_catalog.pg_index
                                          where indexrelid = pg_catalog.to_regclass(%(name)s))
          when 'table' then pg_catalog.to_regclass(%(name)s) in (tab.oid, (
              -- rebuilt with their table: the indexes of its TOAST table
              select oid from pg_catalog.pg_class where reltoastrelid = tab.oid))
          when 'schema' then space.nspname = %(name)s
          else true
      end
order by 2;
