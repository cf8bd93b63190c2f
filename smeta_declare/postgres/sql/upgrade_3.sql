-- Journal format 3 to 4: what the manifest said when a run began.
alter table {journal}.run add column if not exists settings jsonb;
update {journal}.history set format = 4 where format = 3;
