-- How far the slowest standby is behind, in milliseconds; null where none is seen, or none has anything to replay.
select (max(extract(epoch from replay_lag)) * 1000)::int8 from pg_catalog.pg_stat_replication;
