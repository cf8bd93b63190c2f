-- Migration: projects_and_estimates
-- Version: 20250915090000_projects_and_estimates
-- Description: Projects, their estimates line by line, and statistics of use

create table projects (
    id uuid primary key default gen_random_uuid(),
    name text not null check (name <> ''),
    customer text,
    address text,
    status text not null default 'draft' check (status in ('draft', 'active', 'completed', 'archived')),
    created_at timestamptz not null default now(),
    updated_at timestamptz not null default now(),
    deleted_at timestamptz
);
comment on table projects is 'A construction object with its customer';

create table estimates (
    id uuid primary key default gen_random_uuid(),
    project_id uuid not null references projects (id),
    number text not null,
    version integer not null default 1 check (version > 0),
    title text not null,
    status text not null default 'draft' check (status in ('draft', 'active', 'archived')),
    currency text not null default 'RUB' check (currency ~ '^[A-Z]{3}$'),
    notes text,
    created_at timestamptz not null default now(),
    updated_at timestamptz not null default now(),
    unique (project_id, number, version)
);
comment on table estimates is 'One version of a cost estimate (смета) of a project';

create table estimate_items (
    id uuid primary key default gen_random_uuid(),
    estimate_id uuid not null references estimates (id) on delete cascade,
    parent_id uuid,
    kind text not null,
    work_id text references works (id),
    material_id text references materials (id),
    name text not null check (name <> ''),
    unit text not null,
    quantity numeric(14, 4) not null check (quantity >= 0),
    unit_price numeric(14, 2) not null check (unit_price >= 0),
    line_total numeric(18, 2) generated always as (round(quantity * unit_price, 2)) stored,
    item_order integer not null default 0,
    created_at timestamptz not null default now(),
    updated_at timestamptz not null default now(),
    unique (estimate_id, id),
    -- Both columns in the key: the parent is a line of the same estimate.
    foreign key (estimate_id, parent_id) references estimate_items (estimate_id, id) on delete cascade,
    constraint estimate_items_kind_check check (
        case kind
            when 'work' then work_id is not null and material_id is null
            when 'material' then material_id is not null and work_id is null
            when 'custom' then work_id is null and material_id is null
            else false
        end
    )
);
comment on table estimate_items is 'Lines of an estimate: works, the materials below them, and lines of the estimator''s own';
comment on column estimate_items.name is 'Name, unit and price are copied from the catalogue, so that an estimate does not change with it';

create index estimate_items_estimate_id_parent_id_item_order_idx on estimate_items (estimate_id, parent_id, item_order);
create index estimate_items_work_id_idx on estimate_items (work_id);
create index estimate_items_material_id_idx on estimate_items (material_id);

create table statistics (
    id uuid primary key default gen_random_uuid(),
    type text not null,
    metric_name text not null,
    metric_value numeric(18, 4) not null,
    created_at timestamptz not null default now()
);
comment on table statistics is 'Measured use of the service: one row per event or daily sum';

insert into projects (id, name, customer, address, status, created_at) values
    ('6d1f0c52-1c1e-4d0a-9a57-0e6c3f6f8a11', 'Жилой дом «Берёзовая роща»', 'ООО «СтройИнвест»',
     'Московская область, г. Одинцово, ул. Сосновая, 14', 'active', '2025-09-15 09:00+03'),
    ('b0a7e6c4-52f3-4b39-8f0d-7d3a8c1e9b22', 'Ремонт офиса на Ленинском проспекте', 'АО «Вектор»',
     'г. Москва, Ленинский проспект, 101, этаж 4', 'draft', '2025-09-15 10:30+03');

insert into estimates (id, project_id, number, version, title, status, notes, created_at) values
    ('2f9b8a70-3d64-4c15-a1c8-5b0e7d9f4c31', '6d1f0c52-1c1e-4d0a-9a57-0e6c3f6f8a11', 'ЛС-01', 1,
     'Фундаментная плита', 'archived', 'Первый вариант, до уточнения объёмов', '2025-09-15 09:10+03'),
    ('94c3d1e8-7a20-4f6b-8e5d-1a2b3c4d5e32', '6d1f0c52-1c1e-4d0a-9a57-0e6c3f6f8a11', 'ЛС-01', 2,
     'Фундаментная плита', 'active', 'Объёмы по рабочей документации', '2025-09-15 09:40+03'),
    ('c58e2f17-0b9d-4e83-b6a4-6f7e8d9c0b33', 'b0a7e6c4-52f3-4b39-8f0d-7d3a8c1e9b22', 'ЛС-01', 1,
     'Отделка помещений', 'draft', null, '2025-09-15 10:45+03');

insert into estimate_items
    (id, estimate_id, parent_id, kind, work_id, material_id, name, unit, quantity, unit_price, item_order)
values
    ('0a6c4f1e-8d23-4b57-9c10-2e3f4a5b6c41', '2f9b8a70-3d64-4c15-a1c8-5b0e7d9f4c31', null,
     'work', 'w.4', null, 'Бетонирование фундаментной плиты', 'м³', 110, 3900.00, 10),
    ('1b7d5a2f-9e34-4c68-8d21-3f4a5b6c7d42', '94c3d1e8-7a20-4f6b-8e5d-1a2b3c4d5e32', null,
     'work', 'w.3', null, 'Армирование фундаментной плиты', 'т', 9.8, 24500.00, 10),
    ('2c8e6b30-af45-4d79-9e32-4a5b6c7d8e43', '94c3d1e8-7a20-4f6b-8e5d-1a2b3c4d5e32', '1b7d5a2f-9e34-4c68-8d21-3f4a5b6c7d42',
     'material', null, 'm.3', 'Арматура А500С, 12 мм', 'т', 10.29, 68500.00, 10),
    ('3d9f7c41-b056-4e8a-8f43-5b6c7d8e9f44', '94c3d1e8-7a20-4f6b-8e5d-1a2b3c4d5e32', null,
     'work', 'w.4', null, 'Бетонирование фундаментной плиты', 'м³', 124.5, 3900.00, 20),
    ('4ea08d52-c167-4f9b-9054-6c7d8e9f0a45', '94c3d1e8-7a20-4f6b-8e5d-1a2b3c4d5e32', '3d9f7c41-b056-4e8a-8f43-5b6c7d8e9f44',
     'material', null, 'm.1', 'Бетон М300 В22,5', 'м³', 126.3675, 6450.00, 10),
    ('5fb19e63-d278-4a0c-8165-7d8e9f0a1b46', 'c58e2f17-0b9d-4e83-b6a4-6f7e8d9c0b33', null,
     'work', 'w.8', null, 'Окраска стен за два раза', 'м²', 312.4, 340.00, 10),
    ('60c2af74-e389-4b1d-9276-8e9f0a1b2c47', 'c58e2f17-0b9d-4e83-b6a4-6f7e8d9c0b33', null,
     'custom', null, null, 'Вывоз строительного мусора', 'рейс', 3, 9500.00, 20);

insert into statistics (type, metric_name, metric_value, created_at) values
    ('search', 'materials_searched', 214, '2025-08-29 23:59:59+03'),
    ('search', 'materials_searched', 187, '2025-09-12 23:59:59+03'),
    ('estimate', 'estimates_created', 2, '2025-09-15 09:40+03'),
    ('estimate', 'estimates_created', 1, '2025-09-15 10:45+03'),
    ('export', 'estimates_exported', 1, '2025-09-15 11:20+03'),
    ('session', 'active_users', 5, '2025-09-15 12:00+03');

-- ROLLBACK_START
-- irreversible: every project, estimate and measurement
drop table statistics;
drop table estimate_items;
drop table estimates;
drop table projects;
-- ROLLBACK_END

-- VALIDATION_START
-- expect: rows = 4
select relname
from pg_catalog.pg_class
where relnamespace = 'public'::regnamespace
  and relkind in ('r', 'p')
  and relname in ('projects', 'estimates', 'estimate_items', 'statistics');

-- The total of a line is computed by the database, and by nobody else.
select
    attgenerated = 's' as computed,
    format_type(atttypid, atttypmod) = 'numeric(18,2)' as exact,
    pg_get_expr(adbin, adrelid) = 'round((quantity * unit_price), 2)' as as_agreed
from pg_catalog.pg_attribute
join pg_catalog.pg_attrdef on adrelid = attrelid and adnum = attnum
where attrelid = to_regclass('estimate_items') and attname = 'line_total';

-- What a row may say is limited.
-- expect: rows = 4
select conname
from pg_catalog.pg_constraint
where convalidated
  and (conrelid, conname) in (
      (to_regclass('projects'), 'projects_status_check'),
      (to_regclass('estimates'), 'estimates_status_check'),
      (to_regclass('estimates'), 'estimates_currency_check'),
      (to_regclass('estimate_items'), 'estimate_items_kind_check')
  );

-- Every estimate has a project, every line an estimate.
-- expect: rows = 2
select distinct conrelid::regclass, confrelid::regclass
from pg_catalog.pg_constraint
where contype = 'f'
  and convalidated
  and (conrelid, confrelid) in (
      (to_regclass('estimates'), to_regclass('projects')),
      (to_regclass('estimate_items'), to_regclass('estimates'))
  );

-- Moments, not wall clocks.
-- expect: value = 0
select count(*) filter (where atttypid <> 'timestamptz'::regtype)
from pg_catalog.pg_attribute
where attname in ('created_at', 'updated_at', 'deleted_at')
  and attrelid in (
      to_regclass('projects'), to_regclass('estimates'), to_regclass('estimate_items'), to_regclass('statistics')
  )
having count(*) >= 8;
-- VALIDATION_END
