-- Replication slots that nobody reads, and that keep vacuum from removing dead rows: how many transactions old.
select slot_name::text, slot_type, greatest(pg_catalog.age(xmin), pg_catalog.age(catalog_xmin)),
       pg_catalog.quote_literal(slot_name::text)
from pg_catalog.pg_replication_slots
where not active
  and (xmin is not null or catalog_xmin is not null)
order by slot_name;
