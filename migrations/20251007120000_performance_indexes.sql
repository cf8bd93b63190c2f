-- Migration: performance_indexes
-- Version: 20251007120000_performance_indexes
-- Description: Material search, sign-in, newest-first lists, and statistics partitioned by month

-- Statistics become a partitioned table first: what comes later in this file may be built concurrently, each index
-- a step of its own, and from every boundary between those steps the rollback then finds the same state.
--
-- An index on a partitioned table can't be built concurrently. It needs not to be: it is built while the table is new
-- and nobody else can see it. Readers of the old table are served until the names are swapped; writers wait, because
-- a row written while the others are copied would be lost.
lock table statistics in share row exclusive mode;

-- The key has to contain the column that the table is partitioned by.
create table statistics_by_month (
    like statistics including defaults including constraints including comments,
    constraint statistics_by_month_pkey primary key (id, created_at)
) partition by range (created_at);
comment on table statistics_by_month is 'Measured use of the service: one row per event or daily sum; one partition per month';

-- Months begin at midnight UTC: without the offset they would begin where the session that runs this happens to be.
create table statistics_before_2025_09 partition of statistics_by_month
    for values from (minvalue) to ('2025-09-01 00:00+00');
create table statistics_2025_09 partition of statistics_by_month
    for values from ('2025-09-01 00:00+00') to ('2025-10-01 00:00+00');
create table statistics_2025_10 partition of statistics_by_month
    for values from ('2025-10-01 00:00+00') to ('2025-11-01 00:00+00');
create table statistics_2025_11 partition of statistics_by_month
    for values from ('2025-11-01 00:00+00') to ('2025-12-01 00:00+00');
create table statistics_2025_12 partition of statistics_by_month
    for values from ('2025-12-01 00:00+00') to ('2026-01-01 00:00+00');
create table statistics_2026_01 partition of statistics_by_month
    for values from ('2026-01-01 00:00+00') to ('2026-02-01 00:00+00');
create table statistics_2026_02 partition of statistics_by_month
    for values from ('2026-02-01 00:00+00') to ('2026-03-01 00:00+00');
create table statistics_2026_03 partition of statistics_by_month
    for values from ('2026-03-01 00:00+00') to ('2026-04-01 00:00+00');
create table statistics_2026_04 partition of statistics_by_month
    for values from ('2026-04-01 00:00+00') to ('2026-05-01 00:00+00');
create table statistics_2026_05 partition of statistics_by_month
    for values from ('2026-05-01 00:00+00') to ('2026-06-01 00:00+00');
create table statistics_2026_06 partition of statistics_by_month
    for values from ('2026-06-01 00:00+00') to ('2026-07-01 00:00+00');
create table statistics_2026_07 partition of statistics_by_month
    for values from ('2026-07-01 00:00+00') to ('2026-08-01 00:00+00');
create table statistics_2026_08 partition of statistics_by_month
    for values from ('2026-08-01 00:00+00') to ('2026-09-01 00:00+00');
create table statistics_2026_09 partition of statistics_by_month
    for values from ('2026-09-01 00:00+00') to ('2026-10-01 00:00+00');
create table statistics_2026_10 partition of statistics_by_month
    for values from ('2026-10-01 00:00+00') to ('2026-11-01 00:00+00');
create table statistics_2026_11 partition of statistics_by_month
    for values from ('2026-11-01 00:00+00') to ('2026-12-01 00:00+00');
create table statistics_2026_12 partition of statistics_by_month
    for values from ('2026-12-01 00:00+00') to ('2027-01-01 00:00+00');

-- A measurement is never refused because somebody forgot to add a month.
create table statistics_default partition of statistics_by_month default;

insert into statistics_by_month (id, type, metric_name, metric_value, created_at)
select id, type, metric_name, metric_value, created_at
from statistics;

create index statistics_type_created_at_idx on statistics_by_month (type, created_at desc);

drop table statistics;
alter table statistics_by_month rename to statistics;
alter table statistics rename constraint statistics_by_month_pkey to statistics_pkey;

create function create_statistics_partition(p_month date) returns regclass
language plpgsql
set search_path = pg_catalog, public, pg_temp
as $$
declare
    v_from constant timestamp := date_trunc('month', p_month::timestamp);
    v_name constant text := 'statistics_' || to_char(v_from, 'YYYY_MM');
    v_protection record;
begin
    -- Attached, not created in place: `partition of` would lock out every reader of the parent.
    execute format('create table public.%I (like public.statistics including all)', v_name);

    -- A partition is read through its parent. If rows of the parent are protected, the way around it is closed:
    -- row security without a policy lets nobody in.
    select relrowsecurity, relforcerowsecurity
    into v_protection
    from pg_class
    where oid = 'public.statistics'::regclass;
    if v_protection.relrowsecurity then
        execute format('alter table public.%I enable row level security', v_name);
    end if;
    if v_protection.relforcerowsecurity then
        execute format('alter table public.%I force row level security', v_name);
    end if;

    execute format(
        'alter table public.statistics attach partition public.%I for values from (%L) to (%L)',
        v_name, v_from at time zone 'UTC', (v_from + interval '1 month') at time zone 'UTC'
    );
    return format('public.%I', v_name)::regclass;
end
$$;
comment on function create_statistics_partition(date) is
    'Adds the partition of a month; run by the owner ahead of time: it is refused once statistics_default holds rows of that month';
revoke execute on function create_statistics_partition(date) from public;

-- Search in the catalogue. A query must repeat this expression and `deleted_at is null` to use the index.
create index {% if concurrently %}concurrently{% endif %} materials_search_idx
    on materials using gin (to_tsvector({{ search_language|literal }}, name || ' ' || coalesce(description, '')))
    where deleted_at is null;

-- The catalogue page by page, newest first; the id makes the order total, so that no page repeats or skips a row.
create index {% if concurrently %}concurrently{% endif %} materials_newest_idx
    on materials (created_at desc, id desc)
    where deleted_at is null;

create index {% if concurrently %}concurrently{% endif %} works_category_newest_idx
    on works (category, created_at desc, id desc)
    where deleted_at is null;

create index {% if concurrently %}concurrently{% endif %} projects_status_newest_idx
    on projects (status, created_at desc, id desc)
    where deleted_at is null;

-- Totals of works and of materials per estimate, from the index alone.
create index {% if concurrently %}concurrently{% endif %} estimate_items_estimate_id_kind_idx
    on estimate_items (estimate_id, kind) include (line_total);

-- Sign-in, however the user capitalises the address. Unique: Anna@ and anna@ are one person.
create unique index {% if concurrently %}concurrently{% endif %} auth_users_email_lower_idx
    on auth_users (lower(email));

-- Expression indexes have no statistics until somebody analyses, and autovacuum never analyses a partitioned parent.
analyze materials, works, projects, estimate_items, auth_users, statistics;

-- ROLLBACK_START
-- Runs from every boundary: indexes that were not built yet are not there to drop.
drop index {% if concurrently %}concurrently{% endif %} if exists auth_users_email_lower_idx;
drop index {% if concurrently %}concurrently{% endif %} if exists estimate_items_estimate_id_kind_idx;
drop index {% if concurrently %}concurrently{% endif %} if exists projects_status_newest_idx;
drop index {% if concurrently %}concurrently{% endif %} if exists works_category_newest_idx;
drop index {% if concurrently %}concurrently{% endif %} if exists materials_newest_idx;
drop index {% if concurrently %}concurrently{% endif %} if exists materials_search_idx;

-- Back to one plain table. Every row is kept, whatever partition it is in.
drop function create_statistics_partition(date);
lock table statistics in share row exclusive mode;
create table statistics_in_one (like statistics including defaults including constraints including comments);
comment on table statistics_in_one is 'Measured use of the service: one row per event or daily sum';
insert into statistics_in_one (id, type, metric_name, metric_value, created_at)
select id, type, metric_name, metric_value, created_at
from statistics;
alter table statistics_in_one add constraint statistics_in_one_pkey primary key (id);
drop table statistics;
alter table statistics_in_one rename to statistics;
alter table statistics rename constraint statistics_in_one_pkey to statistics_pkey;
-- ROLLBACK_END

-- VALIDATION_START
-- A concurrent build that failed leaves an index that is there and is not valid.
-- expect: rows = 7
select indexrelid::regclass
from pg_catalog.pg_index
where indisvalid
  and indexrelid in (
      to_regclass('materials_search_idx'),
      to_regclass('materials_newest_idx'),
      to_regclass('works_category_newest_idx'),
      to_regclass('projects_status_newest_idx'),
      to_regclass('estimate_items_estimate_id_kind_idx'),
      to_regclass('auth_users_email_lower_idx'),
      to_regclass('statistics_type_created_at_idx')
  );

-- Another language in the index than in the queries, and no query would use it.
select pg_catalog.pg_get_indexdef('materials_search_idx'::regclass) like
    '%to_tsvector(''' || {{ search_language|literal }} || '''::regconfig%' as index_speaks_the_language;

-- expect: value = RANGE (created_at)
select pg_catalog.pg_get_partkeydef(to_regclass('statistics'));

-- Sixteen months, what was before, and the rest; every month that is added later makes it more.
-- expect: rows >= 18
select relid
from pg_catalog.pg_partition_tree(to_regclass('statistics'))
where isleaf;

-- No gap between the months: one of them begins where no other ends, and that is the first.
-- expect: value = MINVALUE
with months as (
    select regexp_match(pg_catalog.pg_get_expr(relpartbound, oid), 'FROM \((.+)\) TO \((.+)\)') as bounds
    from pg_catalog.pg_class
    where oid in (select relid from pg_catalog.pg_partition_tree(to_regclass('statistics')))
)
select bounds[1]
from months
where bounds is not null
  and bounds[1] not in (select bounds[2] from months where bounds is not null);

select relname, reltuples >= 0 as analysed
from pg_catalog.pg_class
where oid = to_regclass('statistics') and relkind = 'p';
-- VALIDATION_END
