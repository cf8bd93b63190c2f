-- Which database this is: a clone, a restored copy or a standby differs in at least one of these.
select (select system_identifier::text from pg_catalog.pg_control_system()),
       pg_catalog.current_database()::text,
       pg_catalog.pg_is_in_recovery(),
       extract(epoch from pg_catalog.pg_postmaster_start_time())::text;
