-- Relations that the open transaction created or changed and that belong to another role.
select pg_catalog.format('%s belongs to %I', oid::regclass, pg_catalog.pg_get_userbyid(relowner))
from pg_catalog.pg_class
where xmin = pg_catalog.pg_current_xact_id()::xid
  and pg_catalog.pg_get_userbyid(relowner) <> %(role)s
  and relkind in ('r', 'p', 'v', 'm', 'S', 'f')
order by 1
limit 20;
