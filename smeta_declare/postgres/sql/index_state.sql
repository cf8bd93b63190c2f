-- Whether an index of that name is there (seen from the session's search_path), and valid.
select indisvalid from pg_catalog.pg_index where indexrelid = pg_catalog.to_regclass(%(name)s);
