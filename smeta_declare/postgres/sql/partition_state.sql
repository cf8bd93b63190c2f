-- Whether a table is a partition of another, and whether its detaching is pending; and the names of both that mean
-- the same in every session.
select i.inhdetachpending,
       above_space.nspname::text, above.relname::text,
       below_space.nspname::text, below.relname::text
from pg_catalog.pg_inherits as i
join pg_catalog.pg_class as above on above.oid = i.inhparent
join pg_catalog.pg_namespace as above_space on above_space.oid = above.relnamespace
join pg_catalog.pg_class as below on below.oid = i.inhrelid
join pg_catalog.pg_namespace as below_space on below_space.oid = below.relnamespace
where i.inhparent = pg_catalog.to_regclass(%(table)s)
  and i.inhrelid = pg_catalog.to_regclass(%(partition)s);
