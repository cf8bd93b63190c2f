select pg_catalog.pg_advisory_unlock(%(tool)s, %(key)s);
