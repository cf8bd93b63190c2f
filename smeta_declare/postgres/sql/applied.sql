insert into {table} (version, name, description, execution_time_ms, checksum, meaning, inputs,
                     forward_sql, rollback_sql, validation_sql, details)
select version, name, description, execution_time_ms, checksum, meaning, inputs,
       forward_sql, rollback_sql, validation_sql, details
from pg_catalog.json_to_record(%(row)s)
     as row (version text, name text, description text, execution_time_ms bigint, checksum text, meaning text,
             inputs text, forward_sql text, rollback_sql text, validation_sql text, details jsonb);
