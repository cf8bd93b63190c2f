-- How large the database is, in bytes.
select pg_catalog.current_database()::text, pg_catalog.pg_database_size(pg_catalog.current_database());
