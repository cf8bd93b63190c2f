-- The state a plan starts from, in one round trip: history, rows, steps of every unfinished or finished round, open runs.
select id::text, format from {journal}.history;
select version, name, description, applied_at, applied_by, execution_time_ms, checksum, meaning, inputs,
       forward_sql, rollback_sql, validation_sql, details::text, id
from {table}
order by id;
select version, direction, round, steps, finished,
       -- digests by position, of what is half done only
       case when finished < steps then done end,
       case when finished < steps then started end,
       case when finished < steps then kept end
from (select version, direction, round, max(at) as at,
             -- what was begun only may have been edited into fewer or more steps since
             coalesce(max(steps) filter (where state = 'done'), max(steps)) as steps,
             count(distinct position) filter (where state = 'done') as finished,
             jsonb_object_agg(position, digest) filter (where state = 'done') as done,
             jsonb_object_agg(position, jsonb_build_object('digest', digest, 'kept', kept))
                 filter (where state = 'started') as started,
             (array_agg(kept) filter (where kept is not null and state = 'done'))[1] as kept
      from {journal}.step
      group by version, direction, round) as round
order by version, at, round;
select id::text, direction, request, versions, started_at, started_by, plan,
       -- a column of later formats
       coalesce((pg_catalog.to_jsonb(run)->>'saved')::boolean, false)
from {journal}.run
where finished_at is null
order by started_at;
select distinct on (environment) environment, pg_catalog.to_jsonb(run)->'settings' as settings
from {journal}.run
order by environment, started_at desc;
