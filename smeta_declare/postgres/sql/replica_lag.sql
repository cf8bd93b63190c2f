-- How far the slowest standby is behind, in milliseconds; null where none is seen, or all have replayed what there is
-- (their last lag stays in the view for a while). And whether there are standbys that our role may not see.
select (max(extract(epoch from replay_lag)) filter (where replay_lsn < pg_catalog.pg_current_wal_lsn()) * 1000)::int8,
       coalesce(bool_or(state is null), false)
from pg_catalog.pg_stat_replication;
