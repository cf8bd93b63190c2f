-- What happened in a run, beside its steps: retries, blockers, how it ended.
insert into {journal}.event (run, event, facts)
select %(run)s, event, facts
from pg_catalog.json_to_recordset(%(rows)s) as row (event text, facts jsonb);
