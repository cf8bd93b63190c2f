-- Migration: multitenancy_enhancement
-- Version: 20251007121000_multitenancy_enhancement
-- Description: Tenants, a tenant for every row, and row security that binds the owner too

-- Two ways, as the environment says. Where indexes are built inside the transaction, this is one transaction, too: at no
-- moment is a row without its tenant or a table half sealed. Where they are built concurrently, rows get their tenant in
-- batches first, while the application works, and all that seals them is the last transaction.

-- Context ------------------------------------------------------------------------------------------------------------

-- Fails closed: never set is null; after the transaction that set it the server leaves an empty string, which is null
-- here as well; anything else that is no uuid is an error. The body is bound when it is created: no search path matters.
create function get_current_tenant_id() returns uuid
language sql
stable
parallel safe
return nullif(pg_catalog.current_setting('app.current_tenant_id', true), '')::pg_catalog.uuid;
comment on function get_current_tenant_id() is 'The tenant of this transaction; null when there is none, and then no row is visible';

-- For this transaction only, because the next one on the same connection may serve somebody else.
create function set_tenant_context(p_tenant_id uuid) returns void
language sql
volatile
as $$
    select pg_catalog.set_config('app.current_tenant_id', coalesce(p_tenant_id::pg_catalog.text, ''), true)
$$;
comment on function set_tenant_context(uuid) is 'Says which tenant the rest of this transaction serves; null for none';

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

-- Existing rows ------------------------------------------------------------------------------------------------------

-- Everything that exists moves to the default tenant. In one transaction without any update: a stable default is
-- evaluated once, when the column is added, and kept beside the table for the rows that are there. The same default then
-- gives every new row the tenant of its transaction. Without a context that is null, and the row is refused.
select set_tenant_context(id) from tenants where subdomain = 'default';

-- In batches: the column is null at first, and what the application writes meanwhile is found, too. Statistics have no
-- key that is unique by itself: they always get the column at once, after the batches, because from then on a row
-- without a tenant is refused.
{% set batched = ['projects', 'estimates', 'estimate_items', 'user_tenants', 'audit_log'] -%}
{% for table in batched -%}
{% if concurrently -%}
alter table {{ table }} add column tenant_id uuid;
alter table {{ table }} alter column tenant_id set default get_current_tenant_id();
{% else -%}
alter table {{ table }} add column tenant_id uuid not null default get_current_tenant_id();
{% endif -%}
{% endfor -%}
{% if not concurrently -%}
alter table statistics add column tenant_id uuid not null default get_current_tenant_id();
{% endif %}
-- The catalogue that exists stays shared (null), so here the default comes after the column.
alter table materials add column tenant_id uuid;
alter table works add column tenant_id uuid;
alter table work_materials add column tenant_id uuid;
alter table materials alter column tenant_id set default get_current_tenant_id();
alter table works alter column tenant_id set default get_current_tenant_id();
alter table work_materials alter column tenant_id set default get_current_tenant_id();

-- What follows in the same transaction serves nobody.
select set_tenant_context(null);

alter table user_tenants
    add column role text not null default 'viewer' check (role in ('owner', 'admin', 'manager', 'estimator', 'viewer')),
    add column permissions text[] not null default '{}';
comment on column user_tenants.role is 'Role within the tenant; auth_users.role is the one within the service';
comment on column user_tenants.permissions is 'Granted beyond what the role gives, as resource:action';

{% if concurrently -%}
{% for table in batched -%}
-- smeta: batch key=id size=5000 pause=20ms max_lag=10s
update {{ table }} set tenant_id = (select id from tenants where subdomain = 'default') where tenant_id is null;
{% endfor %}
-- What the application, which knows of no tenant yet, has written behind the batches: a few rows. The lock keeps it from
-- writing more of them before the column refuses that.
lock table {{ batched|ident }} in share row exclusive mode;
{% for table in batched -%}
update {{ table }} set tenant_id = (select id from tenants where subdomain = 'default') where tenant_id is null;
alter table {{ table }} alter column tenant_id set not null;
{% endfor -%}
select set_tenant_context(id) from tenants where subdomain = 'default';
alter table statistics add column tenant_id uuid not null default get_current_tenant_id();
select set_tenant_context(null);

{% endif -%}
-- A handful of memberships, and row security is not there yet to hide them from us.
update user_tenants
set role = auth_users.role
from auth_users
where auth_users.id = user_tenants.user_id;

-- Keys ---------------------------------------------------------------------------------------------------------------

-- A key without the tenant tells one tenant what another one has; a reference without it accepts another's row.

alter table projects
    add constraint projects_tenant_id_fkey foreign key (tenant_id) references tenants (id),
    add constraint projects_tenant_id_id_key unique (tenant_id, id);

alter table estimates
    drop constraint estimates_project_id_fkey,
    drop constraint estimates_project_id_number_version_key,
    add constraint estimates_tenant_id_fkey foreign key (tenant_id) references tenants (id),
    add constraint estimates_tenant_id_id_key unique (tenant_id, id),
    add constraint estimates_tenant_id_project_id_number_version_key unique (tenant_id, project_id, number, version),
    add constraint estimates_tenant_id_project_id_fkey
        foreign key (tenant_id, project_id) references projects (tenant_id, id);

-- Shared rows have no tenant, and a reference to null is never checked. So the catalogues have a key that is never null:
-- the tenant as text, or 'shared'. A tenant may then have an m.1 of its own beside the shared one, and a line of an
-- estimate says which of the two it means; that it means no third one is a plain check.
alter table estimate_items
    drop constraint estimate_items_estimate_id_parent_id_fkey,
    drop constraint estimate_items_estimate_id_id_key,
    drop constraint estimate_items_estimate_id_fkey,
    drop constraint estimate_items_material_id_fkey,
    drop constraint estimate_items_work_id_fkey;
alter table work_materials
    drop constraint work_materials_material_id_fkey,
    drop constraint work_materials_work_id_fkey,
    drop constraint work_materials_pkey;
alter table materials drop constraint materials_pkey;
alter table works drop constraint works_pkey;

alter table materials
    add column tenant_key text not null generated always as (coalesce(tenant_id::text, 'shared')) stored,
    add constraint materials_pkey primary key (tenant_key, id),
    add constraint materials_tenant_id_fkey foreign key (tenant_id) references tenants (id);
comment on column materials.tenant_id is 'Null: part of the shared catalogue, which every tenant reads and none writes';
comment on column materials.tenant_key is 'tenant_id for keys, where null would not do: the tenant, or shared';

alter table works
    add column tenant_key text not null generated always as (coalesce(tenant_id::text, 'shared')) stored,
    add constraint works_pkey primary key (tenant_key, id),
    add constraint works_tenant_id_fkey foreign key (tenant_id) references tenants (id);
comment on column works.tenant_id is 'Null: part of the shared catalogue, which every tenant reads and none writes';
comment on column works.tenant_key is 'tenant_id for keys, where null would not do: the tenant, or shared';

alter table work_materials
    add column tenant_key text not null generated always as (coalesce(tenant_id::text, 'shared')) stored,
    add column work_tenant_key text not null default 'shared',
    add column material_tenant_key text not null default 'shared',
    add constraint work_materials_pkey
        primary key (tenant_key, work_tenant_key, work_id, material_tenant_key, material_id),
    add constraint work_materials_tenant_id_fkey foreign key (tenant_id) references tenants (id),
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
    add column work_tenant_key text not null default 'shared',
    add column material_tenant_key text not null default 'shared',
    add constraint estimate_items_tenant_id_fkey foreign key (tenant_id) references tenants (id),
    add constraint estimate_items_tenant_id_estimate_id_id_key unique (tenant_id, estimate_id, id),
    add constraint estimate_items_tenant_id_estimate_id_fkey
        foreign key (tenant_id, estimate_id) references estimates (tenant_id, id) on delete cascade,
    add constraint estimate_items_tenant_id_parent_id_fkey
        foreign key (tenant_id, estimate_id, parent_id) references estimate_items (tenant_id, estimate_id, id)
        on delete cascade,
    add constraint estimate_items_work_fkey
        foreign key (work_tenant_key, work_id) references works (tenant_key, id),
    add constraint estimate_items_material_fkey
        foreign key (material_tenant_key, material_id) references materials (tenant_key, id),
    add constraint estimate_items_own_or_shared_check check (
        work_tenant_key in ('shared', tenant_id::text)
        and material_tenant_key in ('shared', tenant_id::text)
    );
comment on column estimate_items.work_tenant_key is 'Whose work: shared, or the tenant''s own';
comment on column estimate_items.material_tenant_key is 'Whose material: shared, or the tenant''s own';

alter table user_tenants
    drop constraint user_tenants_user_id_organisation_key,
    add constraint user_tenants_tenant_id_fkey foreign key (tenant_id) references tenants (id),
    add constraint user_tenants_tenant_id_user_id_organisation_key unique (tenant_id, user_id, organisation);

alter table statistics add constraint statistics_tenant_id_fkey foreign key (tenant_id) references tenants (id);
alter table audit_log add constraint audit_log_tenant_id_fkey foreign key (tenant_id) references tenants (id);

-- Indexes by tenant --------------------------------------------------------------------------------------------------

-- The tenant comes first: row security adds it to every query, and it is the condition that may use an index.
create index materials_tenant_id_newest_idx on materials (tenant_id, created_at desc, id desc);
create index works_tenant_id_category_newest_idx on works (tenant_id, category, created_at desc, id desc);
create index work_materials_tenant_id_idx on work_materials (tenant_id);
create index projects_tenant_id_status_newest_idx on projects (tenant_id, status, created_at desc, id desc);
create index estimate_items_tenant_id_estimate_id_parent_id_idx
    on estimate_items (tenant_id, estimate_id, parent_id, item_order);
create index statistics_tenant_id_type_created_at_idx on statistics (tenant_id, type, created_at desc);
create index audit_log_tenant_id_newest_idx on audit_log (tenant_id, created_at desc);
create index user_tenants_user_id_idx on user_tenants (user_id);

-- The referencing side of the keys that have changed.
drop index estimate_items_work_id_idx;
drop index estimate_items_material_id_idx;
drop index work_materials_material_id_idx;
create index estimate_items_work_idx on estimate_items (work_id, work_tenant_key);
create index estimate_items_material_idx on estimate_items (material_id, material_tenant_key);
create index work_materials_work_idx on work_materials (work_id, work_tenant_key);
create index work_materials_material_idx on work_materials (material_id, material_tenant_key);

-- updated_at ---------------------------------------------------------------------------------------------------------

{% for table in [
    'tenants', 'phases', 'stages', 'substages', 'materials', 'works', 'work_materials',
    'projects', 'estimates', 'estimate_items', 'auth_users', 'user_tenants'
] -%}
create trigger set_updated_at before update on {{ table }} for each row execute function set_updated_at();
{% endfor %}
-- Row security -------------------------------------------------------------------------------------------------------

-- The context is asked in a sub-select: once per statement, not once per row.

-- A tenant sees its own row. Whoever signs up a tenant sets the context to the new id first; that it is no application
-- role is a matter of grants.
alter table tenants enable row level security;
create policy smeta_tenant_select on tenants for select
    using (id = (select get_current_tenant_id()));
create policy smeta_tenant_insert on tenants for insert
    with check (id = (select get_current_tenant_id()));

{% for table in ['projects', 'estimates', 'estimate_items', 'statistics', 'user_tenants', 'audit_log'] -%}
alter table {{ table }} enable row level security;
create policy smeta_tenant on {{ table }}
    using (tenant_id = (select get_current_tenant_id()))
    with check (tenant_id = (select get_current_tenant_id()));
{% endfor %}
-- Shared rows are read by everybody who has a context, and written by nobody: a migration that corrects the shared
-- catalogue says `no force row level security`, changes it, and says `force` again, all in its one transaction.
{% for table in ['materials', 'works', 'work_materials'] -%}
alter table {{ table }} enable row level security;
create policy smeta_tenant_select on {{ table }} for select
    using (
        tenant_id = (select get_current_tenant_id())
        or (tenant_id is null and (select get_current_tenant_id()) is not null)
    );
create policy smeta_tenant_insert on {{ table }} for insert
    with check (tenant_id = (select get_current_tenant_id()));
create policy smeta_tenant_update on {{ table }} for update
    using (tenant_id = (select get_current_tenant_id()))
    with check (tenant_id = (select get_current_tenant_id()));
create policy smeta_tenant_delete on {{ table }} for delete
    using (tenant_id = (select get_current_tenant_id()));
{% endfor %}
-- A partition is read through its parent. Asked by its own name it has row security without a policy: nothing.
do $$
declare
    v_partition regclass;
begin
    for v_partition in select relid from pg_catalog.pg_partition_tree('statistics') where isleaf loop
        execute format('alter table %s enable row level security', v_partition);
        execute format('alter table %s force row level security', v_partition);
    end loop;
end
$$;

-- Last, because from here on the owner sees no rows either.
{% for table in [
    'tenants', 'projects', 'estimates', 'estimate_items', 'statistics', 'user_tenants', 'audit_log',
    'materials', 'works', 'work_materials'
] -%}
alter table {{ table }} force row level security;
{% endfor %}
-- ROLLBACK_START
-- irreversible: tenants with their settings, plans and limits, and which row belonged to which tenant; afterwards every
-- row is everybody's. Roles and permissions of members are lost. With more tenants than the default one this is no way
-- back but a merger, and it fails where two tenants used the same id in a catalogue or the same organisation for a user.
{% for table in [
    'tenants', 'projects', 'estimates', 'estimate_items', 'statistics', 'user_tenants', 'audit_log',
    'materials', 'works', 'work_materials'
] -%}
alter table {{ table }} no force row level security;
alter table {{ table }} disable row level security;
{% endfor %}
do $$
declare
    v_partition regclass;
begin
    for v_partition in select relid from pg_catalog.pg_partition_tree('statistics') where isleaf loop
        execute format('alter table %s no force row level security', v_partition);
        execute format('alter table %s disable row level security', v_partition);
    end loop;
end
$$;

drop policy if exists smeta_tenant_insert on tenants;
drop policy if exists smeta_tenant_select on tenants;
{% for table in ['projects', 'estimates', 'estimate_items', 'statistics', 'user_tenants', 'audit_log'] -%}
drop policy if exists smeta_tenant on {{ table }};
{% endfor %}
{% for table in ['materials', 'works', 'work_materials'] -%}
drop policy if exists smeta_tenant_select on {{ table }};
drop policy if exists smeta_tenant_insert on {{ table }};
drop policy if exists smeta_tenant_update on {{ table }};
drop policy if exists smeta_tenant_delete on {{ table }};
{% endfor %}
{% for table in [
    'tenants', 'phases', 'stages', 'substages', 'materials', 'works', 'work_materials',
    'projects', 'estimates', 'estimate_items', 'auth_users', 'user_tenants'
] -%}
drop trigger if exists set_updated_at on {{ table }};
{% endfor %}
drop index if exists user_tenants_user_id_idx;
drop index if exists estimate_items_work_idx;
drop index if exists estimate_items_material_idx;
drop index if exists work_materials_work_idx;
drop index if exists work_materials_material_idx;

-- The new keys go with their columns, as far as nothing of another table refers to them.
alter table estimate_items
    drop constraint if exists estimate_items_work_fkey,
    drop constraint if exists estimate_items_material_fkey,
    drop constraint if exists estimate_items_tenant_id_estimate_id_fkey,
    drop constraint if exists estimate_items_tenant_id_parent_id_fkey,
    drop column if exists work_tenant_key,
    drop column if exists material_tenant_key,
    drop column if exists tenant_id;
alter table work_materials
    drop constraint if exists work_materials_work_fkey,
    drop constraint if exists work_materials_material_fkey,
    drop column if exists work_tenant_key,
    drop column if exists material_tenant_key,
    drop column if exists tenant_key,
    drop column if exists tenant_id;
alter table estimates
    drop constraint if exists estimates_tenant_id_project_id_fkey,
    drop column if exists tenant_id;
alter table materials drop column if exists tenant_key, drop column if exists tenant_id;
alter table works drop column if exists tenant_key, drop column if exists tenant_id;
alter table projects drop column if exists tenant_id;
alter table statistics drop column if exists tenant_id;
alter table audit_log drop column if exists tenant_id;
alter table user_tenants drop column if exists permissions, drop column if exists role, drop column if exists tenant_id;

-- Stopped half-way, the old keys may still be there.
alter table estimate_items
    drop constraint if exists estimate_items_estimate_id_parent_id_fkey,
    drop constraint if exists estimate_items_estimate_id_id_key,
    drop constraint if exists estimate_items_estimate_id_fkey,
    drop constraint if exists estimate_items_material_id_fkey,
    drop constraint if exists estimate_items_work_id_fkey;
alter table work_materials
    drop constraint if exists work_materials_material_id_fkey,
    drop constraint if exists work_materials_work_id_fkey,
    drop constraint if exists work_materials_pkey;
alter table materials drop constraint if exists materials_pkey;
alter table works drop constraint if exists works_pkey;
alter table estimates
    drop constraint if exists estimates_project_id_fkey,
    drop constraint if exists estimates_project_id_number_version_key;
alter table user_tenants drop constraint if exists user_tenants_user_id_organisation_key;

alter table materials add constraint materials_pkey primary key (id);
alter table works add constraint works_pkey primary key (id);
alter table work_materials
    add constraint work_materials_pkey primary key (work_id, material_id),
    add constraint work_materials_work_id_fkey foreign key (work_id) references works (id),
    add constraint work_materials_material_id_fkey foreign key (material_id) references materials (id);
alter table estimates
    add constraint estimates_project_id_number_version_key unique (project_id, number, version),
    add constraint estimates_project_id_fkey foreign key (project_id) references projects (id);
alter table estimate_items
    add constraint estimate_items_estimate_id_id_key unique (estimate_id, id),
    add constraint estimate_items_estimate_id_fkey
        foreign key (estimate_id) references estimates (id) on delete cascade,
    add constraint estimate_items_estimate_id_parent_id_fkey
        foreign key (estimate_id, parent_id) references estimate_items (estimate_id, id) on delete cascade,
    add constraint estimate_items_work_id_fkey foreign key (work_id) references works (id),
    add constraint estimate_items_material_id_fkey foreign key (material_id) references materials (id);
alter table user_tenants
    add constraint user_tenants_user_id_organisation_key unique (user_id, organisation);
create index if not exists work_materials_material_id_idx on work_materials (material_id);
create index if not exists estimate_items_work_id_idx on estimate_items (work_id);
create index if not exists estimate_items_material_id_idx on estimate_items (material_id);

drop table tenants;
drop function set_updated_at();
drop function set_tenant_context(uuid);
drop function get_current_tenant_id();
-- ROLLBACK_END

-- VALIDATION_START
-- Rows can't be asked any more, not even by the owner; the catalogue can.

-- expect: rows = 10
select relname
from pg_catalog.pg_class
where relnamespace = 'public'::regnamespace
  and relrowsecurity
  and relforcerowsecurity
  and not relispartition
  and relname in (
      'tenants', 'projects', 'estimates', 'estimate_items', 'statistics', 'user_tenants', 'audit_log',
      'materials', 'works', 'work_materials'
  );

-- No table with a tenant is left open, its partitions included.
select bool_and(relrowsecurity and relforcerowsecurity) as all_sealed
from pg_catalog.pg_class
join pg_catalog.pg_attribute on attrelid = pg_class.oid
where relkind in ('r', 'p') and attname = 'tenant_id' and not attisdropped;

-- Every policy compares with the context, and asks for it once per statement.
select
    count(*) = 20 as all_there,
    bool_and(coalesce(qual, with_check) like '%id = ( SELECT get_current_tenant_id()%') as asked_once,
    bool_and(qual is null or with_check is null or qual = with_check) as written_as_read
from pg_catalog.pg_policies
where schemaname = 'public' and policyname like 'smeta\_tenant%';

-- Everything that existed has a tenant: not null is the proof.
-- expect: rows = 6
select attrelid::regclass
from pg_catalog.pg_attribute
where attname = 'tenant_id'
  and attnotnull
  and attrelid in (
      to_regclass('projects'), to_regclass('estimates'), to_regclass('estimate_items'),
      to_regclass('statistics'), to_regclass('user_tenants'), to_regclass('audit_log')
  );

-- Every key of a table with a tenant, and every reference between two of them, contains the tenant; random ids need not.
-- expect: value = 0
with tenanted as (
    select attrelid
    from pg_catalog.pg_attribute
    where attname = 'tenant_id' and attnum > 0 and not attisdropped
)
select count(*)
from pg_catalog.pg_constraint
join pg_catalog.pg_attribute on attrelid = conrelid and attnum = conkey[1]
where conrelid in (select attrelid from tenanted)
  and (contype in ('p', 'u') or contype = 'f' and confrelid in (select attrelid from tenanted))
  and pg_catalog.pg_get_constraintdef(pg_constraint.oid) not like '%tenant%'
  and not (contype = 'p' and attname = 'id' and atttypid = 'uuid'::regtype)
having exists (select from tenanted);  -- no answer at all while there is nothing to judge

-- The setting of the backfill is gone, and what is left of it, an empty string, is no tenant and no error.
select get_current_tenant_id() is null as no_context_is_no_tenant;

select provolatile = 's' as stable_within_a_statement, not prosecdef as runs_as_the_caller
from pg_catalog.pg_proc
where oid = to_regprocedure('get_current_tenant_id()');

-- expect: rows >= 12
select tgrelid::regclass
from pg_catalog.pg_trigger
where tgname = 'set_updated_at' and tgenabled = 'O';
-- VALIDATION_END
