-- How many rows have a value in a column, up to a limit; see count_rows.
begin read only;
set local row_security = off;
set local statement_timeout = '2s';
select pg_catalog.count(*) from (select from {table} where {column} is not null limit %(limit)s) as row;
commit;
