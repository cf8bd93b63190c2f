-- The state a plan starts from, in one round trip: history, rows, steps of every unfinished or finished round, open runs.
select id::text, format from {journal}.history;
select version, name, description, applied_at, applied_by, execution_time_ms, checksum, meaning, inputs,
       forward_sql, rollback_sql, validation_sql, details
from {table}
order by id;
select version, direction, round, max(steps),
       count(distinct position) filter (where state = 'done'),
       coalesce(jsonb_object_agg(position, digest) filter (where state = 'done'), '{}'),
       coalesce(jsonb_object_agg(position, digest) filter (where state = 'started'), '{}'),
       (array_agg(kept) filter (where kept is not null))[1]
from {journal}.step
group by version, direction, round
order by version, max(at), round;
select id::text, direction, request, versions, started_at, started_by
from {journal}.run
where finished_at is null
order by started_at;
