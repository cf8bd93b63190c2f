-- Whether an enum has a value.
select 1
from pg_catalog.pg_enum
where enumtypid = pg_catalog.to_regtype(%(type)s)
  and enumlabel = %(value)s;
