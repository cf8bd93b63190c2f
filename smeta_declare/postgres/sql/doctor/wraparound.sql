-- How old the oldest transaction number and multixact of each database are, and where vacuuming becomes a must.
select datname::text,
       pg_catalog.age(datfrozenxid), pg_catalog.current_setting('autovacuum_freeze_max_age')::bigint,
       pg_catalog.mxid_age(datminmxid), pg_catalog.current_setting('autovacuum_multixact_freeze_max_age')::bigint
from pg_catalog.pg_database
order by datname;
