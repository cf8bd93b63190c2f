-- Everything that the reconciliation of tenants looks at, as one JSON: relations with what belongs to them, the context
-- functions, schemas and roles. No table is read, so that nobody's row security or locks matter: empty is a file
-- without pages. Without JIT: compiling would take longer than the query. Expressions are printed under search_path = pg_catalog: what is not PostgreSQL's own is qualified.
set search_path = pg_catalog;
set jit = off;
with recursive relation as materialized (
    select c.oid, n.nspname, c.relname, c.relkind, c.relowner, c.relrowsecurity, c.relforcerowsecurity,
           c.relispartition, c.reltuples, c.relacl, c.reloptions
    from pg_class c
    join pg_namespace n on n.oid = c.relnamespace
    where c.relkind in ('r', 'p', 'v', 'm', 'f')
      and n.nspname !~ '^pg_' and n.nspname <> 'information_schema' and n.nspname <> %(journal)s
      and c.oid is distinct from to_regclass(%(table)s)
      and not exists (select from pg_depend d
                      where d.classid = 'pg_class'::regclass and d.objid = c.oid and d.deptype = 'e')
),
line as (
    select inhparent as ancestor, inhrelid as descendant from pg_inherits
    union
    select l.ancestor, i.inhrelid from line l join pg_inherits i on i.inhparent = l.descendant
),
owned as materialized (  -- sequences of columns that are no identity: inserting needs a right to them
    select d.refobjid, json_agg(json_build_array(n.nspname, c.relname) order by n.nspname, c.relname) as sequences
    from pg_depend d
    join pg_class c on c.oid = d.objid and c.relkind = 'S'
    join pg_namespace n on n.oid = c.relnamespace
    where d.classid = 'pg_class'::regclass and d.refclassid = 'pg_class'::regclass and d.deptype = 'a'
    group by d.refobjid
),
sequence_grant as materialized (
    select n.nspname, c.relname, g.grantee, g.privilege_type
    from pg_class c join pg_namespace n on n.oid = c.relnamespace, aclexplode(c.relacl) as g
    where c.relkind = 'S' and g.grantee <> c.relowner
)
select json_build_object(
    'version', current_setting('server_version_num')::int,
    'user', current_user,
    'relations', (select coalesce(json_agg(json_build_object(
        'schema', r.nspname, 'name', r.relname, 'kind', r.relkind, 'owner', pg_get_userbyid(r.relowner),
        'rls', r.relrowsecurity, 'forced', r.relforcerowsecurity, 'partition', r.relispartition,
        'rows', r.reltuples,
        'empty', r.relkind in ('v', 'f') or pg_relation_size(r.oid) = 0 and not exists (
            select from line l join pg_class c on c.oid = l.descendant
            where l.ancestor = r.oid and c.relkind in ('r', 'm') and pg_relation_size(c.oid) > 0),
        'invoker', (select option_value in ('true', 'on', '1', 'yes') from pg_options_to_table(r.reloptions)
                    where option_name = 'security_invoker'),
        'parents', (select coalesce(json_agg(json_build_array(n.nspname, c.relname) order by i.inhseqno), '[]')
                    from pg_inherits i join pg_class c on c.oid = i.inhparent join pg_namespace n on n.oid = c.relnamespace
                    where i.inhrelid = r.oid),
        'reads', case when r.relkind in ('v', 'm') then (
            select json_agg(distinct array[n.nspname, c.relname]::text[])
            from pg_rewrite w
            join pg_depend d on d.classid = 'pg_rewrite'::regclass and d.objid = w.oid and d.refclassid = 'pg_class'::regclass
            join pg_class c on c.oid = d.refobjid and c.oid <> r.oid
            join pg_namespace n on n.oid = c.relnamespace
            where w.ev_class = r.oid) end,
        'columns', case when r.relkind not in ('v', 'm') then (
            select json_agg(json_build_array(
                       a.attname, format_type(a.atttypid, a.atttypmod),
                       case when base.oid = 'varchar'::regtype then 'text' when t.typtype = 'd' then format_type(base.oid, null)
                            else format_type(a.atttypid, a.atttypmod) end,
                       a.attnotnull, pg_get_expr(d.adbin, d.adrelid), a.attgenerated <> '', a.attidentity <> '')
                   order by a.attnum)
            from pg_attribute a
            join pg_type t on t.oid = a.atttypid
            join pg_type base on base.oid = case t.typtype when 'd' then t.typbasetype else t.oid end
            left join pg_attrdef d on d.adrelid = a.attrelid and d.adnum = a.attnum
            where a.attrelid = r.oid and a.attnum > 0 and not a.attisdropped) end,
        'constraints', (select json_agg(json_build_object(
                'name', c.conname, 'type', c.contype, 'definition', pg_get_constraintdef(c.oid),
                'validated', c.convalidated, 'deferrable', c.condeferrable, 'deferred', c.condeferred,
                'inherited', c.conparentid <> 0 or c.coninhcount > 0 and not c.conislocal,
                'columns', (select json_agg(a.attname order by k.n) from unnest(c.conkey) with ordinality as k (num, n)
                            join pg_attribute a on a.attrelid = c.conrelid and a.attnum = k.num),
                'target', (select json_build_array(n.nspname, f.relname) from pg_class f
                           join pg_namespace n on n.oid = f.relnamespace where f.oid = c.confrelid),
                'target_columns', (select json_agg(a.attname order by k.n) from unnest(c.confkey) with ordinality as k (num, n)
                                   join pg_attribute a on a.attrelid = c.confrelid and a.attnum = k.num),
                'index', (select f.relname from pg_class f where f.oid = c.conindid),
                'on_update', c.confupdtype, 'on_delete', c.confdeltype, 'match', c.confmatchtype) order by c.conname)
            from pg_constraint c where c.conrelid = r.oid and c.contype in ('p', 'u', 'f', 'c', 'x')),
        'indexes', (select json_agg(json_build_object(
                'name', x.relname, 'definition', pg_get_indexdef(i.indexrelid), 'unique', i.indisunique,
                'valid', i.indisvalid, 'partial', i.indpred is not null, 'method', m.amname,
                'inherited', x.relispartition,
                'constraint', exists (select from pg_constraint c where c.conindid = i.indexrelid and c.conrelid = r.oid
                                        and c.contype in ('p', 'u', 'x')),
                'columns', (select json_agg(a.attname order by k.n)
                            from unnest(i.indkey::int2[]) with ordinality as k (num, n)
                            left join pg_attribute a on a.attrelid = r.oid and a.attnum = k.num and k.num > 0
                            where k.n <= i.indnkeyatts)) order by x.relname)
            from pg_index i join pg_class x on x.oid = i.indexrelid join pg_am m on m.oid = x.relam
            where i.indrelid = r.oid),
        'policies', (select json_agg(json_build_object(
                'name', p.polname, 'command', p.polcmd, 'permissive', p.polpermissive,
                'roles', (select json_agg(case role when 0 then 'public' else pg_get_userbyid(role) end)
                          from unnest(p.polroles) as role),
                'using', pg_get_expr(p.polqual, p.polrelid), 'check', pg_get_expr(p.polwithcheck, p.polrelid))
                order by p.polname)
            from pg_policy p where p.polrelid = r.oid),
        'triggers', (select json_agg(json_build_array(t.tgname, pg_get_triggerdef(t.oid), t.tgenabled <> 'D') order by t.tgname)
            from pg_trigger t where t.tgrelid = r.oid and not t.tgisinternal and t.tgname ~ '^smeta_'),
        'grants', (select json_agg(json_build_array(case g.grantee when 0 then 'public' else pg_get_userbyid(g.grantee) end,
                                                    lower(g.privilege_type), g.is_grantable))
            from aclexplode(r.relacl) as g where g.grantee <> r.relowner and g.grantor = r.relowner),
        'column_grants', (select json_agg(json_build_array(
                case g.grantee when 0 then 'public' else pg_get_userbyid(g.grantee) end, lower(g.privilege_type), a.attname))
            from pg_attribute a, aclexplode(a.attacl) as g
            where a.attrelid = r.oid and a.attacl is not null and g.grantee <> r.relowner and g.grantor = r.relowner),
        'sequences', (select o.sequences from owned o where o.refobjid = r.oid)
    ) order by r.nspname, r.relname), '[]') from relation r),
    'sequence_grants', (select coalesce(json_agg(json_build_array(nspname, relname,
            case grantee when 0 then 'public' else pg_get_userbyid(grantee) end, lower(privilege_type))), '[]') from sequence_grant),
    'functions', (select coalesce(json_agg(json_build_object(
            'schema', n.nspname, 'name', p.proname, 'arguments', pg_get_function_identity_arguments(p.oid),
            'types', (select coalesce(json_agg(format_type(t, null) order by o), '[]') from unnest(p.proargtypes::oid[]) with ordinality as a (t, o)),
            'returns', pg_get_function_result(p.oid), 'language', l.lanname, 'volatility', p.provolatile,
            'parallel', p.proparallel, 'definer', p.prosecdef, 'strict', p.proisstrict, 'leakproof', p.proleakproof,
            'settings', p.proconfig, 'owner', pg_get_userbyid(p.proowner), 'source', p.prosrc,
            'body', pg_get_function_sqlbody(p.oid), 'definition', pg_get_functiondef(p.oid),
            'grants', (select json_agg(json_build_array(case g.grantee when 0 then 'public' else pg_get_userbyid(g.grantee) end,
                                                        lower(g.privilege_type)))
                       from aclexplode(coalesce(p.proacl, acldefault('f', p.proowner))) as g))), '[]')
        from pg_proc p join pg_namespace n on n.oid = p.pronamespace join pg_language l on l.oid = p.prolang
        where n.nspname = %(schema)s and p.proname = any(%(functions)s) and p.prokind = 'f'),
    'schemas', (select coalesce(json_agg(json_build_object('name', n.nspname, 'owner', pg_get_userbyid(n.nspowner),
            'grants', (select json_agg(json_build_array(case g.grantee when 0 then 'public' else pg_get_userbyid(g.grantee) end,
                                                        lower(g.privilege_type)))
                       from aclexplode(coalesce(n.nspacl, acldefault('n', n.nspowner))) as g))), '[]')
        from pg_namespace n where n.nspname !~ '^pg_' and n.nspname <> 'information_schema'),
    'roles', (select coalesce(json_agg(json_build_object('name', rolname, 'super', rolsuper, 'bypass', rolbypassrls,
            'creates', rolcreaterole, 'member_of', (select json_agg(pg_get_userbyid(m.roleid)) from pg_auth_members m
                                                    where m.member = a.oid))), '[]')
        from pg_roles a where rolname !~ '^pg_')
)::text;
reset jit;
reset search_path;
