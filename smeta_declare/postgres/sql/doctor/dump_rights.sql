-- The tables that a role would not dump: hidden from it in part by row security (which binds the owner too where
-- it is forced), and not readable at all. pg_dump locks every table, also for a dump of definitions.
select pg_catalog.format('%I.%I', n.nspname, c.relname),
       c.relrowsecurity
       and not (r.rolsuper or r.rolbypassrls)
       and (c.relforcerowsecurity or not pg_catalog.pg_has_role(r.oid, c.relowner, 'usage')),
       not (pg_catalog.has_schema_privilege(r.oid, n.oid, 'usage')
            and pg_catalog.has_table_privilege(r.oid, c.oid, 'select'))
from pg_catalog.pg_class c
join pg_catalog.pg_namespace n on n.oid = c.relnamespace
join pg_catalog.pg_roles r on r.rolname = %(role)s
where c.relkind in ('r', 'p')
  and n.nspname not in ('pg_catalog', 'information_schema')
  and n.nspname !~ '^pg_(toast|temp)'
order by 1;
