-- Which objects the names mean that statements use, as the session resolves them: an index means its table.
reset search_path;
select written, kind, name
from pg_catalog.unnest(%(names)s::text[]) as written,
     lateral (
         select 'relation', pg_catalog.quote_ident(n.nspname) || '.' || pg_catalog.quote_ident(c.relname)
         from pg_catalog.pg_class o
         left join pg_catalog.pg_index i on i.indexrelid = o.oid
         join pg_catalog.pg_class c on c.oid = coalesce(i.indrelid, o.oid)
         join pg_catalog.pg_namespace n on n.oid = c.relnamespace
         where o.oid = pg_catalog.to_regclass(written)
         union all
         select 'function', pg_catalog.quote_ident(n.nspname) || '.' || pg_catalog.quote_ident(p.proname)
                || '(' || pg_catalog.pg_get_function_identity_arguments(p.oid) || ')'
         from pg_catalog.pg_proc p
         join pg_catalog.pg_namespace n on n.oid = p.pronamespace
         where written in (pg_catalog.quote_ident(n.nspname) || '.' || pg_catalog.quote_ident(p.proname),
                           case when pg_catalog.pg_function_is_visible(p.oid) then pg_catalog.quote_ident(p.proname) end)
           and n.nspname <> 'pg_catalog'
         union all
         select 'type', pg_catalog.quote_ident(n.nspname) || '.' || pg_catalog.quote_ident(t.typname)
         from pg_catalog.pg_type t
         join pg_catalog.pg_namespace n on n.oid = t.typnamespace
         where t.oid = pg_catalog.to_regtype(written) and t.typtype in ('e', 'd', 'r', 'c')
         union all
         select 'schema', pg_catalog.quote_ident(nspname)
         from pg_catalog.pg_namespace
         where pg_catalog.quote_ident(nspname) = written
         union all
         select 'extension', pg_catalog.quote_ident(extname)
         from pg_catalog.pg_extension
         where pg_catalog.quote_ident(extname) = written
     ) as object (kind, name)
union all
-- Where a table goes that is made without its schema.
select 'search_path', 'setting', pg_catalog.current_setting('search_path');
set search_path = pg_catalog;
-- The schema as a person would compare it: of every object and aspect a digest, and what an object hangs together with.
-- Not in it: rows, statistics, comments, the order of columns, what belongs to an extension, smeta's own tables.
-- The definitions come from PostgreSQL itself (pg_get_…def) under search_path = pg_catalog: comparable within one major.
with spaces as (
    select oid, nspname, nspowner, nspacl
    from pg_catalog.pg_namespace
    where nspname !~ '^pg_' and nspname <> 'information_schema' and nspname <> %(journal)s
),
of_extensions as (
    select classid, objid from pg_catalog.pg_depend where deptype = 'e'
),
relations as (
    select c.oid, c.relkind, c.relowner, c.relacl, pg_catalog.quote_ident(s.nspname) || '.' || pg_catalog.quote_ident(c.relname) as name, c as row
    from pg_catalog.pg_class c
    join spaces s on s.oid = c.relnamespace
    where c.relkind in ('r', 'p', 'v', 'm', 'f', 'S')
      and c.oid is distinct from pg_catalog.to_regclass(%(table)s)
      and not exists (select from of_extensions e where e.classid = 'pg_class'::regclass and e.objid = c.oid)
),
functions as (
    select p.oid, p.proowner, p.proacl, p.prokind,
           pg_catalog.quote_ident(s.nspname) || '.' || pg_catalog.quote_ident(p.proname) || '(' || pg_catalog.pg_get_function_identity_arguments(p.oid) || ')' as name
    from pg_catalog.pg_proc p
    join spaces s on s.oid = p.pronamespace
    where not exists (select from of_extensions e where e.classid = 'pg_proc'::regclass and e.objid = p.oid)
),
types as (
    select t.oid, t.typtype, t.typowner, t.typacl, t.typrelid, t.typbasetype, t.typnotnull, t.typdefault, t.typtypmod, t.typcollation,
           pg_catalog.quote_ident(s.nspname) || '.' || pg_catalog.quote_ident(t.typname) as name
    from pg_catalog.pg_type t
    join spaces s on s.oid = t.typnamespace
    where (t.typtype in ('e', 'd', 'r')
           or t.typtype = 'c' and exists (select from pg_catalog.pg_class c where c.oid = t.typrelid and c.relkind = 'c'))
      and not exists (select from of_extensions e where e.classid = 'pg_type'::regclass and e.objid = t.oid)
),
parts (kind, name, aspect, part) as (
    select 'relation', name, 'table', pg_catalog.concat_ws(' ', relkind, pg_catalog.pg_get_userbyid(relowner),
               (row).relpersistence, (row).relrowsecurity, (row).relforcerowsecurity, (row).relreplident,
               (select pg_catalog.string_agg(option, ',' order by option) from pg_catalog.unnest((row).reloptions) as option),
               pg_catalog.pg_get_expr((row).relpartbound, oid),
               case relkind when 'p' then pg_catalog.pg_get_partkeydef(oid) end)
    from relations
    union all
    select 'relation', r.name, 'table', 'inherits ' || i.inhparent::regclass::text
    from relations r join pg_catalog.pg_inherits i on i.inhrelid = r.oid
    union all
    select 'relation', r.name, 'columns', pg_catalog.concat_ws(' ', pg_catalog.quote_ident(a.attname),
               pg_catalog.format_type(a.atttypid, a.atttypmod), a.attnotnull, a.attidentity, a.attgenerated,
               a.attcollation::regcollation::text, pg_catalog.pg_get_expr(d.adbin, d.adrelid))
    from relations r
    join pg_catalog.pg_attribute a on a.attrelid = r.oid and a.attnum > 0 and not a.attisdropped
    left join pg_catalog.pg_attrdef d on d.adrelid = a.attrelid and d.adnum = a.attnum
    where r.relkind <> 'S'
    union all
    select 'relation', r.name, 'constraints', pg_catalog.concat_ws(' ', pg_catalog.quote_ident(c.conname),
               pg_catalog.pg_get_constraintdef(c.oid))
    from relations r join pg_catalog.pg_constraint c on c.conrelid = r.oid
    where c.contype <> 'n'  -- NOT NULL is with the columns
    union all
    select 'relation', r.name, 'indexes', pg_catalog.concat_ws(' ', pg_catalog.pg_get_indexdef(i.indexrelid), i.indisvalid,
               i.indisreplident, i.indisclustered)
    from relations r join pg_catalog.pg_index i on i.indrelid = r.oid
    union all
    select 'relation', r.name, 'triggers', pg_catalog.concat_ws(' ', pg_catalog.pg_get_triggerdef(t.oid), t.tgenabled)
    from relations r join pg_catalog.pg_trigger t on t.tgrelid = r.oid
    where not t.tgisinternal
    union all
    select 'relation', r.name, 'policies', pg_catalog.concat_ws(' ', pg_catalog.quote_ident(p.polname), p.polcmd, p.polpermissive,
               (select pg_catalog.string_agg(case role when 0 then 'public' else pg_catalog.pg_get_userbyid(role) end, ',' order by 1)
                from pg_catalog.unnest(p.polroles) as role),
               pg_catalog.pg_get_expr(p.polqual, p.polrelid), '/', pg_catalog.pg_get_expr(p.polwithcheck, p.polrelid))
    from relations r join pg_catalog.pg_policy p on p.polrelid = r.oid
    union all
    select 'relation', r.name, 'definition', pg_catalog.pg_get_viewdef(r.oid)
    from relations r where r.relkind in ('v', 'm')
    union all
    select 'relation', r.name, 'rules', pg_catalog.pg_get_ruledef(w.oid) || ' ' || w.ev_enabled::text
    from relations r join pg_catalog.pg_rewrite w on w.ev_class = r.oid
    where w.rulename <> '_RETURN'
    union all
    select 'relation', r.name, 'sequence', pg_catalog.concat_ws(' ', q.seqtypid::regtype, q.seqstart, q.seqincrement, q.seqmin,
               q.seqmax, q.seqcache, q.seqcycle)
    from relations r join pg_catalog.pg_sequence q on q.seqrelid = r.oid
    union all
    select 'relation', r.name, 'grants', grants::text
    from relations r, pg_catalog.unnest(coalesce(r.relacl, pg_catalog.acldefault(case r.relkind when 'S' then 's' else 'r' end::"char", r.relowner))) as grants
    union all
    select 'relation', r.name, 'grants', pg_catalog.quote_ident(a.attname) || ' ' || grants::text
    from relations r
    join pg_catalog.pg_attribute a on a.attrelid = r.oid and a.attacl is not null and not a.attisdropped,
         pg_catalog.unnest(a.attacl) as grants
    union all
    select 'function', name, 'definition', case when prokind in ('f', 'p', 'w') then pg_catalog.pg_get_functiondef(oid)
               else (select pg_catalog.concat_ws(' ', a.aggtransfn, a.aggfinalfn, a.aggcombinefn, a.aggtranstype::regtype, a.agginitval)
                     from pg_catalog.pg_aggregate a where a.aggfnoid = functions.oid) end
               || ' ' || pg_catalog.pg_get_userbyid(proowner)
    from functions
    union all
    select 'function', name, 'grants', grants::text
    from functions, pg_catalog.unnest(coalesce(proacl, pg_catalog.acldefault('f', proowner))) as grants
    union all
    select 'type', name, 'definition', pg_catalog.concat_ws(' ', typtype, pg_catalog.pg_get_userbyid(typowner),
               pg_catalog.format_type(nullif(typbasetype, 0), typtypmod), typnotnull, typdefault, nullif(typcollation, 0)::regcollation)
    from types
    union all
    select 'type', t.name, 'definition', pg_catalog.concat_ws(' ', 'label', pg_catalog.row_number() over (partition by t.oid order by e.enumsortorder), e.enumlabel)
    from types t join pg_catalog.pg_enum e on e.enumtypid = t.oid
    union all
    select 'type', t.name, 'definition', pg_catalog.concat_ws(' ', c.conname, pg_catalog.pg_get_constraintdef(c.oid))
    from types t join pg_catalog.pg_constraint c on c.contypid = t.oid
    union all
    select 'type', t.name, 'definition', pg_catalog.concat_ws(' ', a.attnum, pg_catalog.quote_ident(a.attname), pg_catalog.format_type(a.atttypid, a.atttypmod))
    from types t join pg_catalog.pg_attribute a on a.attrelid = t.typrelid and a.attnum > 0 and not a.attisdropped
    where t.typtype = 'c'
    union all
    select 'type', t.name, 'definition', pg_catalog.concat_ws(' ', 'range', r.rngsubtype::regtype, r.rngcollation, r.rngsubdiff)
    from types t join pg_catalog.pg_range r on r.rngtypid = t.oid
    union all
    select 'type', name, 'grants', grants::text
    from types, pg_catalog.unnest(coalesce(typacl, pg_catalog.acldefault('T', typowner))) as grants
    union all
    select 'schema', pg_catalog.quote_ident(nspname), 'owner', pg_catalog.pg_get_userbyid(nspowner) from spaces
    union all
    select 'schema', pg_catalog.quote_ident(nspname), 'grants', grants::text from spaces, pg_catalog.unnest(coalesce(nspacl, pg_catalog.acldefault('n', nspowner))) as grants
    union all
    select 'relation', r.name, 'triggers', pg_catalog.concat_ws(' ', 'of constraints', t.tgenabled, pg_catalog.count(*))
    from relations r join pg_catalog.pg_trigger t on t.tgrelid = r.oid
    where t.tgisinternal and t.tgenabled <> 'O'
    group by r.name, t.tgenabled
    union all
    -- What others may do with what is made.
    select 'default privileges', pg_catalog.quote_ident(current_user), 'grants',
           pg_catalog.concat_ws(' ', d.defaclnamespace::regnamespace, d.defaclobjtype, grants)
    from pg_catalog.pg_default_acl d, pg_catalog.unnest(d.defaclacl) as grants
    where d.defaclrole = current_user::regrole
    union all
    select 'extension', pg_catalog.quote_ident(extname), 'version', extversion from pg_catalog.pg_extension
)
select kind, name, aspect, pg_catalog.md5(pg_catalog.string_agg(part, E'\n' order by part collate "C"))
from parts
group by kind, name, aspect
order by kind, name collate "C", aspect;
-- What hangs on a relation: views, foreign keys of others, sequences it owns, children. A partition is no such child: a
-- new one changes nothing for whoever works on the table.
select distinct on_name, name
from (
    select d.refobjid as target, w.ev_class as dependent
    from pg_catalog.pg_depend d
    join pg_catalog.pg_rewrite w on w.oid = d.objid
    where d.classid = 'pg_rewrite'::regclass and d.refclassid = 'pg_class'::regclass and w.ev_class <> d.refobjid
    union
    select confrelid, conrelid from pg_catalog.pg_constraint where contype = 'f' and conrelid <> confrelid
    union
    select refobjid, objid from pg_catalog.pg_depend
    where classid = 'pg_class'::regclass and refclassid = 'pg_class'::regclass and deptype in ('a', 'i') and refobjsubid > 0
    union
    select i.inhparent, i.inhrelid
    from pg_catalog.pg_inherits i join pg_catalog.pg_class c on c.oid = i.inhrelid
    where not c.relispartition
) as edge,
lateral (select pg_catalog.quote_ident(n.nspname) || '.' || pg_catalog.quote_ident(c.relname) from pg_catalog.pg_class c
         join pg_catalog.pg_namespace n on n.oid = c.relnamespace where c.oid = edge.target and n.nspname !~ '^pg_') as a (on_name),
lateral (select pg_catalog.quote_ident(n.nspname) || '.' || pg_catalog.quote_ident(c.relname) from pg_catalog.pg_class c
         join pg_catalog.pg_namespace n on n.oid = c.relnamespace where c.oid = edge.dependent and c.relkind <> 'i') as b (name)
order by 1, 2;
