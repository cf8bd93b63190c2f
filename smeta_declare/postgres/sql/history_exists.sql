-- Which of our tables are there, and whether the history table has the columns that ours has.
select pg_catalog.to_regclass(%(table)s) is not null,
       pg_catalog.to_regclass(%(journal)s) is not null,
       (select count(*)
        from pg_catalog.pg_attribute
        where attrelid = pg_catalog.to_regclass(%(table)s)
          and attname in ('version', 'checksum', 'meaning', 'inputs', 'forward_sql', 'rollback_sql', 'details')
          and not attisdropped) = 7,
       array(select c.relname::text
             from pg_catalog.pg_class c
             join pg_catalog.pg_namespace n on n.oid = c.relnamespace
             where n.nspname = %(schema)s and c.relkind = 'r');
