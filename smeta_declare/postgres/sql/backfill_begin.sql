-- The row of a backfill, locked: whoever else had it in a transaction is done with it.
insert into {journal}.backfill (history, version, direction, position, round, digest, pass, rows, state, run)
values (%(history)s, %(version)s, %(direction)s, %(position)s, %(round)s, %(digest)s, 0, 0, 'running', %(run)s)
on conflict do nothing;
select digest, pass, lower, upper, rows, state = 'done'
from {journal}.backfill
where history = %(history)s and version = %(version)s and direction = %(direction)s
  and position = %(position)s and round = %(round)s
for update;
