update {journal}.run
set finished_at = pg_catalog.clock_timestamp(), outcome = %(outcome)s
where id = %(run)s;
