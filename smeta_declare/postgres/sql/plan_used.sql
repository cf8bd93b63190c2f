select finished_at::timestamptz(0)::text, started_by
from {journal}.run
where plan = %(plan)s and outcome = 'done'
order by finished_at
limit 1;
