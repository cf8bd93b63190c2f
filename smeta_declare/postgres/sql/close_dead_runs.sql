-- We hold the runner's lock: whatever is still open belongs to a runner that is gone.
update {journal}.run
set finished_at = pg_catalog.clock_timestamp(), outcome = coalesce(outcome, 'died')
where finished_at is null and id <> %(run)s;
