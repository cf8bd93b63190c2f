-- What smeta needs for itself, and whether the role has it: object, right, had. What is not there yet must be makeable.
select 'database ' || pg_catalog.current_database(), 'create',
       pg_catalog.has_database_privilege(%(who)s, pg_catalog.current_database(), 'create')
where pg_catalog.to_regnamespace(pg_catalog.quote_ident(%(journal)s)) is null
union all
select 'schema ' || pg_catalog.quote_ident(nspname), right_asked,
       pg_catalog.has_schema_privilege(%(who)s, oid, right_asked)
from pg_catalog.pg_namespace
cross join (values ('usage'), ('create')) as asked(right_asked)
where nspname in (%(schema)s, %(journal)s)
  and (right_asked = 'usage' or not exists (
           select from pg_catalog.pg_class c
           where c.relnamespace = pg_namespace.oid
             and c.relname in (case nspname when %(schema)s then %(table)s end,
                               case nspname when %(journal)s then 'history' end)))
union all
select 'table ' || pg_catalog.format('%I.%I', nspname, relname), right_asked,
       pg_catalog.has_table_privilege(%(who)s, c.oid, right_asked)
from pg_catalog.pg_class c
join pg_catalog.pg_namespace n on n.oid = c.relnamespace
cross join (values ('select'), ('insert'), ('delete'), ('update')) as asked(right_asked)
where c.relkind = 'r'
  and (right_asked in ('select', 'insert')
       or right_asked = 'delete' and nspname = %(schema)s
       or right_asked = 'update' and relname in ('run', 'step', 'backfill'))
  and ((nspname = %(schema)s and relname = %(table)s)
       or (nspname = %(journal)s and relname in ('history', 'run', 'step', 'event', 'backfill')));
