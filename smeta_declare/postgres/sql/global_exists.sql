-- Whether a database, tablespace or subscription of that name is there.
select 1 from pg_catalog.pg_database where %(kind)s = 'database' and datname = %(name)s
union all
select 1 from pg_catalog.pg_tablespace where %(kind)s = 'tablespace' and spcname = %(name)s
union all
select 1 from pg_catalog.pg_subscription
where %(kind)s = 'subscription' and subname = %(name)s
  and subdbid = (select oid from pg_catalog.pg_database where datname = pg_catalog.current_database());
