-- Constraints that hold for new rows only, and the statement that checks the old ones. One that is not enforced
-- (PostgreSQL 18) cannot be validated, and that of a partition is validated with its parent's.
select conname::text,
       coalesce(nullif(conrelid, 0)::pg_catalog.regclass::text, contypid::pg_catalog.regtype::text),
       case when conrelid <> 0
            then pg_catalog.format('alter table %s validate constraint %I', conrelid::pg_catalog.regclass, conname)
            else pg_catalog.format('alter domain %s validate constraint %I', contypid::pg_catalog.regtype, conname)
       end
from pg_catalog.pg_constraint c
where not convalidated
  and conparentid = 0
  and coalesce(pg_catalog.to_jsonb(c) ->> 'conenforced', 'true') = 'true'
order by 2, 1;
