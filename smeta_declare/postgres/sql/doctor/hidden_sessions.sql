-- The sessions of this database whose state our role may not see.
select count(*)
from pg_catalog.pg_stat_activity
where datname = pg_catalog.current_database()
  and query = '<insufficient privilege>';
