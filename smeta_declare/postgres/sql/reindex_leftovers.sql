-- Invalid indexes that a REINDEX CONCURRENTLY of this scope left: their names end in _ccnew or _ccold. It rebuilds
-- the indexes of partitions with those of their parent, and the index of a TOAST table with those of its table.
-- Last column: whether our role may name it in a DROP, as it may not in pg_toast without a grant.
-- https://www.postgresql.org/docs/current/sql-reindex.html#SQL-REINDEX-CONCURRENTLY
with recursive named as (
    select coalesce(
        (select indrelid from pg_catalog.pg_index
         where %(scope)s = 'index' and indexrelid = pg_catalog.to_regclass(%(name)s)),
        pg_catalog.to_regclass(%(name)s)) as oid
    union
    select i.inhrelid
    from named
    join pg_catalog.pg_inherits as i on i.inhparent = named.oid
    join pg_catalog.pg_class as part on part.oid = i.inhrelid and part.relispartition
)
select index.oid::int8, place.nspname::text, index.relname::text,
       pg_catalog.has_schema_privilege(place.oid, 'usage')
from pg_catalog.pg_index as i
join pg_catalog.pg_class as index on index.oid = i.indexrelid
join pg_catalog.pg_namespace as place on place.oid = index.relnamespace
join pg_catalog.pg_class as tab on tab.oid = i.indrelid
left join pg_catalog.pg_class as owner on tab.relkind = 't' and owner.reltoastrelid = tab.oid
join pg_catalog.pg_namespace as space on space.oid = coalesce(owner.relnamespace, tab.relnamespace)
where not i.indisvalid
  and index.relname ~ '_cc(new|old)[0-9]*$'
  and case %(scope)s
          when 'index' then tab.oid in (select oid from named)
          when 'table' then tab.oid in (select oid from named) or owner.oid in (select oid from named)
          when 'schema' then %(name)s in (space.nspname, place.nspname)
          else true
      end
order by 2, 3;
