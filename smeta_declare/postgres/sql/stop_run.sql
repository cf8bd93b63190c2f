-- Half-way: the run stays open, so that the same command goes on with it.
update {journal}.run set outcome = 'stopped' where id = %(run)s;
