-- Where the rows are that statements take away: for each name as written the tables that are there now.
-- `unnest` of several arrays is a construct of the parser, which knows it without a schema only.
reset search_path;
select number, nspname, relname
from unnest(%(relations)s::text[], %(schemas)s::text[], %(columns)s::text[])
         with ordinality as lost (relation, schema, "column", number),
     lateral (
         select n.nspname, c.relname
         from pg_catalog.pg_class as c
         join pg_catalog.pg_namespace as n on n.oid = c.relnamespace
         where case when lost.relation is null
                    then pg_catalog.quote_ident(n.nspname) = lost.schema and not c.relispartition
                    else c.oid = pg_catalog.to_regclass(lost.relation)
                         and (lost."column" is null or exists (
                                 select from pg_catalog.pg_attribute as a
                                 where a.attrelid = c.oid and a.attname = lost."column" and not a.attisdropped))
               end
           and c.relkind in ('r', 'p', 'f')
     ) as found;
set search_path = pg_catalog;
