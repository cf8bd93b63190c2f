-- Transactions that wait for the second half of a two-phase commit: they hold their locks, for ever if need be.
select gid, owner::text, extract(epoch from pg_catalog.clock_timestamp() - prepared)::int,
       pg_catalog.quote_literal(gid)
from pg_catalog.pg_prepared_xacts
where database = pg_catalog.current_database()
order by prepared;
