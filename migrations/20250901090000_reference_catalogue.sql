-- Migration: reference_catalogue
-- Version: 20250901090000_reference_catalogue
-- Description: Construction phases, materials, works, and what material a work consumes

create table phases (
    id text primary key,
    name text not null unique,
    sort_order integer not null,
    created_at timestamptz not null default now(),
    updated_at timestamptz not null default now()
);
comment on table phases is 'Top of the tree of construction phases: phase, stage, substage';

create table stages (
    id text primary key,
    phase_id text not null references phases (id),
    name text not null,
    sort_order integer not null,
    created_at timestamptz not null default now(),
    updated_at timestamptz not null default now(),
    unique (phase_id, name),
    unique (phase_id, id)
);
comment on table stages is 'Stages of a construction phase';

create table substages (
    id text primary key,
    stage_id text not null references stages (id),
    name text not null,
    sort_order integer not null,
    created_at timestamptz not null default now(),
    updated_at timestamptz not null default now(),
    unique (stage_id, name),
    unique (stage_id, id)
);
comment on table substages is 'Substages of a stage: the leaves of the tree';

create table materials (
    id text primary key,
    name text not null check (name <> ''),
    description text,
    unit text not null,
    unit_price numeric(14, 2) not null check (unit_price >= 0),
    expenditure numeric(14, 6) not null default 1 check (expenditure > 0),
    weight numeric(12, 3) check (weight >= 0),
    image_url text,
    item_url text,
    created_at timestamptz not null default now(),
    updated_at timestamptz not null default now(),
    deleted_at timestamptz
);
comment on table materials is 'Catalogue of materials with their prices';
comment on column materials.expenditure is 'Norm of consumption per unit of work, when the work does not say otherwise';
comment on column materials.weight is 'Kilograms per unit';
comment on column materials.deleted_at is 'Deleted rows stay, because old estimates refer to them';

create table works (
    id text primary key,
    name text not null check (name <> ''),
    description text,
    category text not null,
    type text not null,
    unit text not null,
    unit_price numeric(14, 2) not null check (unit_price >= 0),
    phase_id text not null references phases (id),
    stage_id text,
    substage_id text,
    created_at timestamptz not null default now(),
    updated_at timestamptz not null default now(),
    deleted_at timestamptz,
    -- Both columns in the key: a stage of another phase can't be named by mistake.
    foreign key (phase_id, stage_id) references stages (phase_id, id),
    foreign key (stage_id, substage_id) references substages (stage_id, id),
    check (substage_id is null or stage_id is not null)
);
comment on table works is 'Catalogue of works with their prices and their place in the tree of phases';
comment on column works.deleted_at is 'Deleted rows stay, because old estimates refer to them';

create index works_phase_id_stage_id_idx on works (phase_id, stage_id);
create index works_stage_id_substage_id_idx on works (stage_id, substage_id);

create table work_materials (
    work_id text not null references works (id),
    material_id text not null references materials (id),
    consumption_per_work_unit numeric(18, 6) not null check (consumption_per_work_unit > 0),
    waste_coeff numeric(8, 4) not null default 1 check (waste_coeff >= 1),
    created_at timestamptz not null default now(),
    updated_at timestamptz not null default now(),
    primary key (work_id, material_id)
);
comment on table work_materials is 'What a unit of work consumes: consumption multiplied by the waste coefficient';

create index work_materials_material_id_idx on work_materials (material_id);

insert into phases (id, name, sort_order) values
    ('p.1', 'Подготовительные работы', 10),
    ('p.2', 'Нулевой цикл', 20),
    ('p.3', 'Надземная часть', 30),
    ('p.4', 'Отделочные работы', 40);

insert into stages (id, phase_id, name, sort_order) values
    ('s.1.1', 'p.1', 'Подготовка площадки', 10),
    ('s.2.1', 'p.2', 'Земляные работы', 10),
    ('s.2.2', 'p.2', 'Фундаменты', 20),
    ('s.3.1', 'p.3', 'Стены и перегородки', 10),
    ('s.3.2', 'p.3', 'Кровля', 20),
    ('s.4.1', 'p.4', 'Черновая отделка', 10),
    ('s.4.2', 'p.4', 'Чистовая отделка', 20);

insert into substages (id, stage_id, name, sort_order) values
    ('ss.1.1.1', 's.1.1', 'Ограждение и разбивка осей', 10),
    ('ss.2.1.1', 's.2.1', 'Разработка котлована', 10),
    ('ss.2.1.2', 's.2.1', 'Песчаная подготовка', 20),
    ('ss.2.2.1', 's.2.2', 'Армирование', 10),
    ('ss.2.2.2', 's.2.2', 'Бетонирование', 20),
    ('ss.3.1.1', 's.3.1', 'Кладка наружных стен', 10),
    ('ss.3.2.1', 's.3.2', 'Устройство покрытия', 10),
    ('ss.4.1.1', 's.4.1', 'Штукатурка', 10),
    ('ss.4.2.1', 's.4.2', 'Окраска', 10),
    ('ss.4.2.2', 's.4.2', 'Укладка плитки', 20);

insert into materials (id, name, description, unit, unit_price, expenditure, weight) values
    ('m.1', 'Бетон М300 В22,5', 'Товарный бетон на гранитном щебне, подвижность П3', 'м³', 6450.00, 1.015, 2400),
    ('m.2', 'Бетон М100 В7,5', 'Тощий бетон для подготовки под фундаменты', 'м³', 4980.00, 1.020, 2300),
    ('m.3', 'Арматура А500С, 12 мм', 'Стержни периодического профиля, мерная длина 11,7 м', 'т', 68500.00, 1.050, 1000),
    ('m.4', 'Проволока вязальная 1,2 мм', 'Отожжённая, для вязки арматурных каркасов', 'кг', 118.00, 1, 1),
    ('m.5', 'Песок строительный', 'Карьерный, мытый, модуль крупности 2,0–2,5', 'м³', 950.00, 1.100, 1600),
    ('m.6', 'Щебень гранитный 20–40 мм', 'Марка прочности М1200', 'м³', 2350.00, 1.100, 1400),
    ('m.7', 'Кирпич керамический полнотелый', 'Одинарный, марка М150, 250×120×65 мм', 'шт.', 21.50, 1.020, 3.5),
    ('m.8', 'Смесь кладочная М150', 'Цементно-песчаная, мешок 40 кг', 'мешок', 315.00, 1, 40),
    ('m.9', 'Штукатурка гипсовая', 'Для машинного и ручного нанесения, мешок 30 кг', 'мешок', 430.00, 1, 30),
    ('m.10', 'Грунтовка глубокого проникновения', 'Акриловая, канистра 10 л', 'л', 62.00, 1, 1),
    ('m.11', 'Краска интерьерная моющаяся', 'Матовая, белая, база А', 'л', 540.00, 1, 1.4),
    ('m.12', 'Плитка керамогранитная 600×600 мм', 'Для пола, матовая, износостойкость PEI IV', 'м²', 1490.00, 1.070, 21),
    ('m.13', 'Клей плиточный С2', 'Для керамогранита, мешок 25 кг', 'мешок', 610.00, 1, 25),
    ('m.14', 'Металлочерепица 0,5 мм', 'Полимерное покрытие, полезная ширина 1,1 м', 'м²', 780.00, 1.150, 4.9);

insert into works (id, name, description, category, type, unit, unit_price, phase_id, stage_id, substage_id) values
    ('w.1', 'Разработка грунта экскаватором', 'С погрузкой в самосвалы, грунт второй группы',
     'Земляные работы', 'механизированная', 'м³', 420.00, 'p.2', 's.2.1', 'ss.2.1.1'),
    ('w.2', 'Устройство песчаной подготовки', 'С послойным уплотнением',
     'Земляные работы', 'ручная', 'м³', 890.00, 'p.2', 's.2.1', 'ss.2.1.2'),
    ('w.3', 'Армирование фундаментной плиты', 'Вязка сеток и каркасов на месте',
     'Бетонные работы', 'ручная', 'т', 24500.00, 'p.2', 's.2.2', 'ss.2.2.1'),
    ('w.4', 'Бетонирование фундаментной плиты', 'С подачей автобетононасосом и вибрированием',
     'Бетонные работы', 'механизированная', 'м³', 3900.00, 'p.2', 's.2.2', 'ss.2.2.2'),
    ('w.5', 'Кладка наружных стен из кирпича', 'Толщина стены 380 мм, под расшивку',
     'Каменные работы', 'ручная', 'м³', 5600.00, 'p.3', 's.3.1', 'ss.3.1.1'),
    ('w.6', 'Монтаж металлочерепицы', 'По готовой обрешётке',
     'Кровельные работы', 'ручная', 'м²', 720.00, 'p.3', 's.3.2', 'ss.3.2.1'),
    ('w.7', 'Штукатурка стен по маякам', 'Средняя толщина слоя 15 мм',
     'Отделочные работы', 'ручная', 'м²', 650.00, 'p.4', 's.4.1', 'ss.4.1.1'),
    ('w.8', 'Окраска стен за два раза', 'Водно-дисперсионными составами, с грунтованием',
     'Отделочные работы', 'ручная', 'м²', 340.00, 'p.4', 's.4.2', 'ss.4.2.1'),
    ('w.9', 'Укладка керамогранита на пол', 'С затиркой швов',
     'Отделочные работы', 'ручная', 'м²', 1350.00, 'p.4', 's.4.2', 'ss.4.2.2');

insert into work_materials (work_id, material_id, consumption_per_work_unit, waste_coeff) values
    ('w.2', 'm.5', 1, 1.1000),
    ('w.3', 'm.3', 1, 1.0500),
    ('w.3', 'm.4', 12, 1.0200),
    ('w.4', 'm.1', 1, 1.0150),
    ('w.5', 'm.7', 394, 1.0200),
    ('w.5', 'm.8', 9.5, 1.0300),
    ('w.6', 'm.14', 1, 1.1500),
    ('w.7', 'm.9', 0.45, 1.0500),
    ('w.7', 'm.10', 0.15, 1.0000),
    ('w.8', 'm.10', 0.12, 1.0000),
    ('w.8', 'm.11', 0.25, 1.0500),
    ('w.9', 'm.12', 1, 1.0700),
    ('w.9', 'm.13', 0.2, 1.0500);

-- ROLLBACK_START
-- irreversible: the catalogue, with every price entered since
drop table work_materials;
drop table works;
drop table materials;
drop table substages;
drop table stages;
drop table phases;
-- ROLLBACK_END

-- VALIDATION_START
-- Asked before the commit and by `smeta verify` ever after, so these say what stays true, whatever comes later: tables,
-- types and rules, not today's rows of tables that will belong to tenants.

-- expect: rows = 6
select relname
from pg_catalog.pg_class
where relnamespace = 'public'::regnamespace
  and relkind = 'r'
  and relname in ('phases', 'stages', 'substages', 'materials', 'works', 'work_materials');

-- Four phases at least, and none without a stage.
select
    count(distinct phases.id) >= 4 as phases_are_there,
    bool_and(stages.id is not null) as every_phase_has_a_stage
from phases
left join stages on stages.phase_id = phases.id;

-- Money and quantities are exact numbers, with these many digits.
-- expect: rows = 5
select attrelid::regclass, attname
from pg_catalog.pg_attribute
where (attrelid, attname, format_type(atttypid, atttypmod)) in (
    (to_regclass('materials'), 'unit_price', 'numeric(14,2)'),
    (to_regclass('materials'), 'expenditure', 'numeric(14,6)'),
    (to_regclass('works'), 'unit_price', 'numeric(14,2)'),
    (to_regclass('work_materials'), 'consumption_per_work_unit', 'numeric(18,6)'),
    (to_regclass('work_materials'), 'waste_coeff', 'numeric(8,4)')
);

-- A work can't name a stage of another phase, nor a substage of another stage.
-- expect: rows = 2
select conname
from pg_catalog.pg_constraint
where conrelid = to_regclass('works')
  and convalidated
  and pg_get_constraintdef(oid) in (
      'FOREIGN KEY (phase_id, stage_id) REFERENCES stages(phase_id, id)',
      'FOREIGN KEY (stage_id, substage_id) REFERENCES substages(stage_id, id)'
  );

-- No negative price, no work without consumption.
-- expect: rows = 3
select conname
from pg_catalog.pg_constraint
where convalidated
  and (conrelid, conname) in (
      (to_regclass('materials'), 'materials_unit_price_check'),
      (to_regclass('works'), 'works_unit_price_check'),
      (to_regclass('work_materials'), 'work_materials_consumption_per_work_unit_check')
  );
-- VALIDATION_END
