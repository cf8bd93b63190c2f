-- Ends a DETACH PARTITION CONCURRENTLY that was cut off.
-- https://www.postgresql.org/docs/current/sql-altertable.html#SQL-ALTERTABLE-DETACH-PARTITION
alter table {table} detach partition {partition} finalize;
