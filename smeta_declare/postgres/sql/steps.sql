-- The rows of steps go in before their work: their key is what makes it happen once.
insert into {journal}.step (history, version, direction, position, round, state, steps, digest, run, kept)
select %(history)s, version, direction, position, round, 'done', steps, digest, %(run)s, kept
from pg_catalog.json_to_recordset(%(rows)s)
     as row (version text, direction text, position integer, round integer, steps integer, digest text, kept jsonb)
on conflict do nothing
returning version, position;
