update {journal}.backfill
set rows = rows + %(rows)s
where history = %(history)s and version = %(version)s and direction = %(direction)s
  and position = %(position)s and round = %(round)s;
