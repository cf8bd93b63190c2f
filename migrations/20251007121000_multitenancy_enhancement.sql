-- Migration: multitenancy_enhancement
-- Version: 20251007121000_multitenancy_enhancement
-- Description: Tenants, memberships, and catalogues that hold shared rows beside those of tenants

-- What makes a row a tenant's, and keeps it so, is declared: `tenancy:` of smeta.yaml. Columns, back-fill, keys, context
-- functions, policies and grants come from there, once this migration is applied. Here is what no declaration says.

create function set_updated_at() returns trigger
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
begin
    new.updated_at := now();
    return new;
end
$$;
comment on function set_updated_at() is 'Keeps updated_at: whatever an update says, it is the time of the update';

-- Tenants ------------------------------------------------------------------------------------------------------------

create table tenants (
    id uuid primary key default gen_random_uuid(),
    name text not null check (name <> ''),
    subdomain text not null unique check (subdomain ~ '^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$'),
    settings jsonb not null default '{}' check (jsonb_typeof(settings) = 'object'),
    plan text not null default 'free' check (plan in ('free', 'standard', 'business', 'enterprise')),
    max_users integer check (max_users > 0),
    max_projects integer check (max_projects > 0),
    max_storage_mb integer check (max_storage_mb > 0),
    is_active boolean not null default true,
    created_at timestamptz not null default now(),
    updated_at timestamptz not null default now()
);
comment on table tenants is 'Companies that use the service; none sees another';
comment on column tenants.max_users is 'Limits of the plan; null is unlimited';

insert into tenants (name, subdomain, settings, plan)
values ('Default Organization', 'default', '{"locale": "ru-RU", "currency": "RUB"}', 'enterprise');

-- Members ------------------------------------------------------------------------------------------------------------

alter table user_tenants
    add column role text not null default 'viewer' check (role in ('owner', 'admin', 'manager', 'estimator', 'viewer')),
    add column permissions text[] not null default '{}';
comment on column user_tenants.role is 'Role within the tenant; auth_users.role is the one within the service';
comment on column user_tenants.permissions is 'Granted beyond what the role gives, as resource:action';

-- A handful of memberships, and row security is not there yet to hide them from us.
update user_tenants
set role = auth_users.role
from auth_users
where auth_users.id = user_tenants.user_id;

-- Catalogues ---------------------------------------------------------------------------------------------------------

-- Shared rows have no tenant, and a reference to null is never checked. So the catalogues have a key that is never null:
-- the tenant as text, or 'shared'. A tenant may then have an m.1 of its own beside the shared one, and a line of an
-- estimate says which of the two it means; that it means no third one is a plain check. These columns are made of
-- tenant_id, which is therefore added here, without a default and without rows in it: the catalogue that exists stays
-- shared, and lines of estimates get theirs by `tenancy:`.
alter table estimate_items
    drop constraint estimate_items_material_id_fkey,
    drop constraint estimate_items_work_id_fkey;
alter table work_materials
    drop constraint work_materials_material_id_fkey,
    drop constraint work_materials_work_id_fkey,
    drop constraint work_materials_pkey;
alter table materials drop constraint materials_pkey;
alter table works drop constraint works_pkey;

alter table materials
    add column tenant_id uuid,
    add column tenant_key text not null generated always as (coalesce(tenant_id::text, 'shared')) stored,
    add constraint materials_pkey primary key (tenant_key, id);
comment on column materials.tenant_id is 'Null: part of the shared catalogue, which every tenant reads and none writes';
comment on column materials.tenant_key is 'tenant_id for keys, where null would not do: the tenant, or shared';

alter table works
    add column tenant_id uuid,
    add column tenant_key text not null generated always as (coalesce(tenant_id::text, 'shared')) stored,
    add constraint works_pkey primary key (tenant_key, id);
comment on column works.tenant_id is 'Null: part of the shared catalogue, which every tenant reads and none writes';
comment on column works.tenant_key is 'tenant_id for keys, where null would not do: the tenant, or shared';

alter table work_materials
    add column tenant_id uuid,
    add column tenant_key text not null generated always as (coalesce(tenant_id::text, 'shared')) stored,
    add column work_tenant_key text not null default 'shared',
    add column material_tenant_key text not null default 'shared',
    add constraint work_materials_pkey
        primary key (tenant_key, work_tenant_key, work_id, material_tenant_key, material_id),
    add constraint work_materials_work_fkey
        foreign key (work_tenant_key, work_id) references works (tenant_key, id),
    add constraint work_materials_material_fkey
        foreign key (material_tenant_key, material_id) references materials (tenant_key, id),
    add constraint work_materials_own_or_shared_check check (
        work_tenant_key in ('shared', coalesce(tenant_id::text, 'shared'))
        and material_tenant_key in ('shared', coalesce(tenant_id::text, 'shared'))
    );
comment on column work_materials.tenant_id is 'Null: part of the shared catalogue, which every tenant reads and none writes';
comment on column work_materials.work_tenant_key is 'Whose work: shared, or the tenant''s own';
comment on column work_materials.material_tenant_key is 'Whose material: shared, or the tenant''s own';

alter table estimate_items
    add column tenant_id uuid,
    add column work_tenant_key text not null default 'shared',
    add column material_tenant_key text not null default 'shared',
    add constraint estimate_items_work_fkey
        foreign key (work_tenant_key, work_id) references works (tenant_key, id),
    add constraint estimate_items_material_fkey
        foreign key (material_tenant_key, material_id) references materials (tenant_key, id),
    -- Without a tenant nothing but what is shared.
    add constraint estimate_items_own_or_shared_check check (
        work_tenant_key in ('shared', coalesce(tenant_id::text, 'shared'))
        and material_tenant_key in ('shared', coalesce(tenant_id::text, 'shared'))
    );
comment on column estimate_items.work_tenant_key is 'Whose work: shared, or the tenant''s own';
comment on column estimate_items.material_tenant_key is 'Whose material: shared, or the tenant''s own';

-- Indexes ------------------------------------------------------------------------------------------------------------

-- The tenant comes first: row security adds it to every query, and it is the condition that may use an index.
create index materials_tenant_id_newest_idx on materials (tenant_id, created_at desc, id desc);
create index works_tenant_id_category_newest_idx on works (tenant_id, category, created_at desc, id desc);
create index work_materials_tenant_id_idx on work_materials (tenant_id);

-- The referencing side of keys: of those that have changed, and of one whose unique key will begin with the tenant.
drop index estimate_items_work_id_idx;
drop index estimate_items_material_id_idx;
drop index work_materials_material_id_idx;
create index estimate_items_work_idx on estimate_items (work_id, work_tenant_key);
create index estimate_items_material_idx on estimate_items (material_id, material_tenant_key);
create index work_materials_work_idx on work_materials (work_id, work_tenant_key);
create index work_materials_material_idx on work_materials (material_id, material_tenant_key);
create index user_tenants_user_id_idx on user_tenants (user_id);

-- updated_at ---------------------------------------------------------------------------------------------------------

{% for table in [
    'tenants', 'phases', 'stages', 'substages', 'materials', 'works', 'work_materials',
    'projects', 'estimates', 'estimate_items', 'auth_users', 'user_tenants'
] -%}
create trigger set_updated_at before update on {{ table }} for each row execute function set_updated_at();
{% endfor %}

-- ROLLBACK_START
-- irreversible: tenants with their settings, plans and limits; roles and permissions of members. What `tenancy:` made is
-- taken back before. With tenants' own rows in the catalogues this fails where two of them used the same id.
{% for table in [
    'tenants', 'phases', 'stages', 'substages', 'materials', 'works', 'work_materials',
    'projects', 'estimates', 'estimate_items', 'auth_users', 'user_tenants'
] -%}
drop trigger set_updated_at on {{ table }};
{% endfor %}
drop index user_tenants_user_id_idx;
drop index estimate_items_work_idx;
drop index estimate_items_material_idx;
drop index work_materials_work_idx;
drop index work_materials_material_idx;

-- The new keys go with their columns, as far as nothing of another table refers to them.
alter table estimate_items
    drop constraint estimate_items_work_fkey,
    drop constraint estimate_items_material_fkey,
    drop column work_tenant_key,
    drop column material_tenant_key,
    drop column tenant_id;
alter table work_materials
    drop constraint work_materials_work_fkey,
    drop constraint work_materials_material_fkey,
    drop column work_tenant_key,
    drop column material_tenant_key,
    drop column tenant_key,
    drop column tenant_id;
alter table materials drop column tenant_key, drop column tenant_id;
alter table works drop column tenant_key, drop column tenant_id;
alter table user_tenants drop column permissions, drop column role;

alter table materials add constraint materials_pkey primary key (id);
alter table works add constraint works_pkey primary key (id);
alter table work_materials
    add constraint work_materials_pkey primary key (work_id, material_id),
    add constraint work_materials_work_id_fkey foreign key (work_id) references works (id),
    add constraint work_materials_material_id_fkey foreign key (material_id) references materials (id);
alter table estimate_items
    add constraint estimate_items_work_id_fkey foreign key (work_id) references works (id),
    add constraint estimate_items_material_id_fkey foreign key (material_id) references materials (id);
create index work_materials_material_id_idx on work_materials (material_id);
create index estimate_items_work_id_idx on estimate_items (work_id);
create index estimate_items_material_id_idx on estimate_items (material_id);

drop table tenants;
drop function set_updated_at();
-- ROLLBACK_END

-- VALIDATION_START
-- Asked again by `smeta verify`, when rows answer nobody without a tenant: the catalogue does.

-- One subdomain, one tenant.
-- expect: value = UNIQUE (subdomain)
select pg_catalog.pg_get_constraintdef(oid)
from pg_catalog.pg_constraint
where conrelid = to_regclass('tenants') and contype = 'u';

-- The key of a catalogue says whose a row is, and is never null.
-- expect: rows = 3
select attrelid::regclass
from pg_catalog.pg_attribute
where attname = 'tenant_key'
  and attnotnull
  and attgenerated = 's'
  and attrelid in (to_regclass('materials'), to_regclass('works'), to_regclass('work_materials'));

-- What refers to a catalogue says whose row it means, and can mean no third one's.
-- expect: rows = 4
select conrelid::regclass, conname
from pg_catalog.pg_constraint
where contype = 'f'
  and convalidated
  and confrelid in (to_regclass('materials'), to_regclass('works'))
  and pg_catalog.pg_get_constraintdef(oid) like '%\_tenant\_key%REFERENCES%(tenant\_key, id)';

-- expect: rows = 2
select conrelid::regclass
from pg_catalog.pg_constraint
where contype = 'c'
  and convalidated
  and conname in ('estimate_items_own_or_shared_check', 'work_materials_own_or_shared_check');

-- expect: rows >= 12
select tgrelid::regclass
from pg_catalog.pg_trigger
where tgname = 'set_updated_at' and tgenabled = 'O';
-- VALIDATION_END
