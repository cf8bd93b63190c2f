-- Written before a statement that runs outside transactions; its text may have been edited since the last try.
insert into {journal}.step (history, version, direction, position, round, state, steps, digest, run, kept)
values (%(history)s, %(version)s, %(direction)s, %(position)s, %(round)s, 'started', %(steps)s, %(digest)s, %(run)s, %(kept)s)
on conflict (history, version, direction, position, round, state)
do update set steps = excluded.steps, digest = excluded.digest, run = excluded.run, at = pg_catalog.clock_timestamp(), kept = excluded.kept;
