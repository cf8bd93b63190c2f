-- A statement outside transactions that failed before our eyes is not one whose end is unknown.
delete from {journal}.step
where history = %(history)s and version = %(version)s and direction = %(direction)s
  and position = %(position)s and round = %(round)s and state = 'started';
