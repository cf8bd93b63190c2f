delete from {table} where version = any (%(versions)s::text[]);
