-- Partitions that `detach partition … concurrently` left half detached.
select inhrelid::pg_catalog.regclass::text, inhparent::pg_catalog.regclass::text
from pg_catalog.pg_inherits
where inhdetachpending
order by 1;
