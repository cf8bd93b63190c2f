-- Whether a table is a partition of another, and whether its detaching is pending.
select inhdetachpending
from pg_catalog.pg_inherits
where inhparent = pg_catalog.to_regclass(%(table)s)
  and inhrelid = pg_catalog.to_regclass(%(partition)s);
