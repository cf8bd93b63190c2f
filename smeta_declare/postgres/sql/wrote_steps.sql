-- How many of these steps a run has done.
select count(*)
from pg_catalog.json_to_recordset(%(rows)s) as wanted (version text, direction text, position integer, round integer)
join {journal}.step s using (version, direction, position, round)
where s.history = %(history)s and s.state = 'done' and s.run = %(run)s;
