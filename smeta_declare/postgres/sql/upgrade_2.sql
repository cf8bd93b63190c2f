-- Journal format 2 to 3: whether a run is that of a saved plan.
alter table {journal}.run add column if not exists saved boolean not null default false;
alter table {journal}.run alter saved drop default;
update {journal}.history set format = 3 where format = 2;
