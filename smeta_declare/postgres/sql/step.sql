-- The step's row goes in first: its key is what makes the work happen once.
insert into {journal}.step (history, version, direction, position, round, state, steps, digest, run, kept)
values (%(history)s, %(version)s, %(direction)s, %(position)s, %(round)s, %(state)s, %(steps)s, %(digest)s, %(run)s, %(kept)s)
on conflict do nothing;
