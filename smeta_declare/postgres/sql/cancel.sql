select pg_catalog.pg_cancel_backend(%(pid)s);
