-- Whether an index of that name is there (seen from the session's search_path), valid, and on the wanted table.
select indisvalid, indrelid = pg_catalog.to_regclass(%(table)s)
from pg_catalog.pg_index
where indexrelid = pg_catalog.to_regclass(%(name)s);
