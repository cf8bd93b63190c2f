-- Who and where we are.
select (select system_identifier::text from pg_catalog.pg_control_system()),
       pg_catalog.current_database(),
       session_user,
       pg_catalog.current_setting('server_version_num')::int,
       pg_catalog.current_setting('server_version'),
       pg_catalog.pg_is_in_recovery();
