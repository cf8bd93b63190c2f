delete from {table} where version = %(version)s;
