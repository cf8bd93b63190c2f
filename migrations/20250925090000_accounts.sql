-- Migration: accounts
-- Version: 20250925090000_accounts
-- Description: Users, the organisations they work for, and the log of who changed what

create table auth_users (
    id uuid primary key default gen_random_uuid(),
    email text not null unique check (email like '%_@_%'),
    password_hash text not null,
    first_name text not null,
    last_name text not null,
    company text,
    phone text,
    role text not null default 'estimator' check (role in ('admin', 'manager', 'estimator', 'viewer')),
    is_active boolean not null default true,
    created_at timestamptz not null default now(),
    updated_at timestamptz not null default now()
);
comment on table auth_users is 'People who sign in';
comment on column auth_users.password_hash is 'Argon2id; never the password';

create table user_tenants (
    id uuid primary key default gen_random_uuid(),
    user_id uuid not null references auth_users (id) on delete cascade,
    organisation text not null check (organisation <> ''),
    is_active boolean not null default true,
    created_at timestamptz not null default now(),
    updated_at timestamptz not null default now(),
    unique (user_id, organisation)
);
comment on table user_tenants is 'Which user works for which organisation';

create table audit_log (
    id uuid primary key default gen_random_uuid(),
    user_id uuid references auth_users (id) on delete set null,
    table_name text not null,
    record_id text not null,
    action text not null check (action in ('insert', 'update', 'delete')),
    old_values jsonb,
    new_values jsonb,
    created_at timestamptz not null default now(),
    constraint audit_log_values_check check (
        (action = 'insert') = (old_values is null) and (action = 'delete') = (new_values is null)
    )
);
comment on table audit_log is 'Who changed which record, from what to what';

create index audit_log_user_id_idx on audit_log (user_id);
create index audit_log_table_name_record_id_idx on audit_log (table_name, record_id);

-- Nobody can sign in with these: the hashes are no hashes.
insert into auth_users (id, email, password_hash, first_name, last_name, company, phone, role) values
    ('7a1e4c90-25bd-4f38-a6c1-9d8e7f6a5b51', 'a.sokolova@stroyinvest.example', 'fake:not-a-password-hash:1',
     'Анна', 'Соколова', 'ООО «СтройИнвест»', '+7 495 000-00-01', 'admin'),
    ('8b2f5da1-36ce-4049-97d2-ae9f8a7b6c52', 'i.petrov@stroyinvest.example', 'fake:not-a-password-hash:2',
     'Игорь', 'Петров', 'ООО «СтройИнвест»', '+7 495 000-00-02', 'estimator'),
    ('9c306eb2-47df-415a-88e3-bfa09b8c7d53', 'm.lebedeva@vector.example', 'fake:not-a-password-hash:3',
     'Мария', 'Лебедева', 'АО «Вектор»', '+7 495 000-00-03', 'manager');

insert into user_tenants (user_id, organisation) values
    ('7a1e4c90-25bd-4f38-a6c1-9d8e7f6a5b51', 'ООО «СтройИнвест»'),
    ('8b2f5da1-36ce-4049-97d2-ae9f8a7b6c52', 'ООО «СтройИнвест»'),
    ('8b2f5da1-36ce-4049-97d2-ae9f8a7b6c52', 'АО «Вектор»'),
    ('9c306eb2-47df-415a-88e3-bfa09b8c7d53', 'АО «Вектор»');

insert into audit_log (user_id, table_name, record_id, action, old_values, new_values, created_at) values
    ('8b2f5da1-36ce-4049-97d2-ae9f8a7b6c52', 'estimates', '94c3d1e8-7a20-4f6b-8e5d-1a2b3c4d5e32', 'insert',
     null, '{"number": "ЛС-01", "version": 2, "status": "draft"}', '2025-09-25 09:30+03'),
    ('7a1e4c90-25bd-4f38-a6c1-9d8e7f6a5b51', 'estimates', '94c3d1e8-7a20-4f6b-8e5d-1a2b3c4d5e32', 'update',
     '{"status": "draft"}', '{"status": "active"}', '2025-09-25 09:45+03');

-- ROLLBACK_START
-- irreversible: every account, every membership and the log of changes
drop table audit_log;
drop table user_tenants;
drop table auth_users;
-- ROLLBACK_END

-- VALIDATION_START
-- expect: rows = 3
select relname
from pg_catalog.pg_class
where relnamespace = 'public'::regnamespace
  and relkind = 'r'
  and relname in ('auth_users', 'user_tenants', 'audit_log');

-- One address, one account: the constraint is there, and it is over the e-mail alone.
-- expect: value = UNIQUE (email)
select pg_catalog.pg_get_constraintdef(oid)
from pg_catalog.pg_constraint
where conrelid = to_regclass('auth_users') and contype = 'u';

select count(*) filter (where role = 'admin' and is_active) >= 1 as somebody_administers
from auth_users;

-- A membership belongs to an account, and goes with it; a logged change outlives the account that made it.
-- expect: rows = 2
select conrelid::regclass
from pg_catalog.pg_constraint
where contype = 'f'
  and convalidated
  and confrelid = to_regclass('auth_users')
  and (conrelid, confdeltype) in (
      (to_regclass('user_tenants'), 'c'),
      (to_regclass('audit_log'), 'n')
  );

-- A change is logged with what it changed: before, after, or both.
-- expect: rows = 2
select conname
from pg_catalog.pg_constraint
where conrelid = to_regclass('audit_log')
  and convalidated
  and conname in ('audit_log_action_check', 'audit_log_values_check');
-- VALIDATION_END
