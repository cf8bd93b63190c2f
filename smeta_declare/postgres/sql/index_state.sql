-- Whether an index of that name is there (seen from the session's search_path), valid, and on the wanted table;
-- and the name that it has in every session.
select i.indisvalid, i.indrelid = pg_catalog.to_regclass(%(table)s), space.nspname::text, index.relname::text
from pg_catalog.pg_index as i
join pg_catalog.pg_class as index on index.oid = i.indexrelid
join pg_catalog.pg_namespace as space on space.oid = index.relnamespace
where i.indexrelid = pg_catalog.to_regclass(%(name)s);
