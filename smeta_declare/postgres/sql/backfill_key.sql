-- Whether a column of a table can be the key of batches; names as the session sees them.
select c.relkind::text,
       a.attnotnull,
       t.typtype = 'e' or t.oid in (
           'pg_catalog.int2'::regtype, 'pg_catalog.int4'::regtype, 'pg_catalog.int8'::regtype,
           'pg_catalog.numeric'::regtype, 'pg_catalog.float4'::regtype, 'pg_catalog.float8'::regtype,
           'pg_catalog.text'::regtype, 'pg_catalog.varchar'::regtype,
           'pg_catalog.bpchar'::regtype, 'pg_catalog.uuid'::regtype, 'pg_catalog.date'::regtype,
           'pg_catalog.time'::regtype, 'pg_catalog.timetz'::regtype,
           'pg_catalog.timestamp'::regtype, 'pg_catalog.timestamptz'::regtype),
       pg_catalog.format_type(a.atttypid, a.atttypmod),
       exists (select from pg_catalog.pg_index
               where indrelid = c.oid and indisunique and indisvalid and indnkeyatts = 1
                 and indkey[0] = a.attnum and indpred is null and indexprs is null),
       c.relkind = 'r' and exists (select from pg_catalog.pg_inherits where inhparent = c.oid),
       nullif(c.reltuples, -1)::int8,
       (select pg_catalog.string_agg(distinct proname, ', ')
        from pg_catalog.pg_proc where proname = any (%(functions)s::text[]) and prokind in ('a', 'w'))
from pg_catalog.pg_class as c
left join pg_catalog.pg_attribute as a on a.attrelid = c.oid and a.attname = %(column)s and not a.attisdropped and a.attnum > 0
left join pg_catalog.pg_type as d on d.oid = a.atttypid
left join pg_catalog.pg_type as t on t.oid = coalesce(nullif(d.typbasetype, 0), d.oid)
where c.oid = pg_catalog.to_regclass(%(table)s);
