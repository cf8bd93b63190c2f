-- How many rows there are, up to a limit. With row_security = off a role that does not see all gets an error instead.
begin read only;
set local row_security = off;
set local statement_timeout = '2s';
select pg_catalog.count(*) from (select from {table} limit %(limit)s) as row;
commit;
