-- The schema as the catalogue tells it, for servers whose pg_dump we do not have. Smeta's own tables are left out.
with mine as (
    select oid, relname
    from pg_catalog.pg_class
    where relnamespace = 'public'::regnamespace and relname not like 'schema_migrations%'
)
select 'column', relname, attname, (row_number() over (partition by relname order by attnum))::text, pg_catalog.format_type(atttypid, atttypmod), attnotnull::text,
       attidentity::text || attgenerated::text, pg_catalog.pg_get_expr(adbin, adrelid)
from mine
join pg_catalog.pg_attribute on attrelid = mine.oid and attnum > 0 and not attisdropped
left join pg_catalog.pg_attrdef on adrelid = attrelid and adnum = attnum
union all
select 'index', relname, pg_catalog.pg_get_indexdef(mine.oid), '', '', '', '', null
from mine join pg_catalog.pg_index on indexrelid = mine.oid
union all
select 'constraint', relname, conname, pg_catalog.pg_get_constraintdef(pg_constraint.oid), convalidated::text, '', '', null
from mine join pg_catalog.pg_constraint on conrelid = mine.oid
union all
select 'policy', relname, polname, polcmd::text, pg_catalog.pg_get_expr(polqual, polrelid),
       pg_catalog.pg_get_expr(polwithcheck, polrelid), polroles::text, null
from mine join pg_catalog.pg_policy on polrelid = mine.oid
union all
select 'row security', relname, relrowsecurity::text, relforcerowsecurity::text, relkind::text, relacl::text, '',
       pg_catalog.pg_get_expr(relpartbound, pg_class.oid)
from mine join pg_catalog.pg_class using (oid, relname)
union all
select 'trigger', relname, pg_catalog.pg_get_triggerdef(pg_trigger.oid), '', '', '', '', null
from mine join pg_catalog.pg_trigger on tgrelid = mine.oid and not tgisinternal
union all
select 'function', proname, pg_catalog.pg_get_functiondef(oid), proacl::text, '', '', '', null
from pg_catalog.pg_proc
where pronamespace = 'public'::regnamespace
order by 1, 2, 3, 4, 5, 6, 7, 8;
