-- The server's clock, in seconds since 1970.
select extract(epoch from pg_catalog.clock_timestamp())::float8;
