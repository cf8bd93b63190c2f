-- Where the rows are that statements take away: for each name as written the relations that are there now.
-- `unnest` of several arrays is a construct of the parser, which knows it without a schema only.
reset search_path;
select number, nspname, relname, relkind::text
from unnest(%(relations)s::text[], %(schemas)s::text[], %(columns)s::text[])
         with ordinality as lost (relation, schema, "column", number),
     lateral (
         select n.nspname, c.relname, c.relkind
         from pg_catalog.pg_class as c
         join pg_catalog.pg_namespace as n on n.oid = c.relnamespace
         where case when lost.relation is null
                    then pg_catalog.quote_ident(n.nspname) = lost.schema and c.relkind in ('r', 'p')
                         -- a partition is counted with its parent, where that goes too
                         and not exists (
                                 select from pg_catalog.pg_inherits as i
                                 join pg_catalog.pg_class as p on p.oid = i.inhparent
                                 where i.inhrelid = c.oid and p.relnamespace = c.relnamespace)
                    else c.oid = pg_catalog.to_regclass(lost.relation)
                         and (lost."column" is null or exists (
                                 select from pg_catalog.pg_attribute as a
                                 where a.attrelid = c.oid and a.attname = lost."column" and not a.attisdropped))
               end
     ) as found;
set search_path = pg_catalog;
