-- Plain values: from JSON, and with the number looked up here, a row takes twice as long.
insert into {table} (id, version, name, description, execution_time_ms, checksum, meaning, inputs,
                     forward_sql, rollback_sql, validation_sql, details)
values (%(number)s, %(version)s, %(name)s, %(description)s, %(execution_time_ms)s, %(checksum)s, %(meaning)s, %(inputs)s,
        %(forward_sql)s, %(rollback_sql)s, %(validation_sql)s, %(details)s);
