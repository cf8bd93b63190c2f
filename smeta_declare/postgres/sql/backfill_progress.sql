-- How far the backfills are of which batches are committed, and others may not be.
select version, direction, position, round, digest, pass, lower, upper, rows
from {journal}.backfill
where state = 'running' and pass > 0;
