-- Whatever search_path the role has: only pg_catalog is needed, and written out.
insert into {table} (id, version, name, description, execution_time_ms, checksum, meaning, inputs,
                     forward_sql, rollback_sql, validation_sql, details)
select (select coalesce(max(id), 0) + 1 from {table}), version, name, description, execution_time_ms, checksum, meaning, inputs,
       forward_sql, rollback_sql, validation_sql, details
from pg_catalog.json_to_record(%(row)s)
     as row (version pg_catalog.text, name pg_catalog.text, description pg_catalog.text,
             execution_time_ms pg_catalog.int8, checksum pg_catalog.text, meaning pg_catalog.text,
             inputs pg_catalog.text, forward_sql pg_catalog.text, rollback_sql pg_catalog.text,
             validation_sql pg_catalog.text, details pg_catalog.jsonb);
