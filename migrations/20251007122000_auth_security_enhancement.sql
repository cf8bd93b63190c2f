-- Migration: auth_security_enhancement
-- Version: 20251007122000_auth_security_enhancement
-- Description: Refresh tokens, sessions, login attempts, password resets, and the functions that guard them

-- Sign-in happens before a tenant is known: these tables have no tenant, and no application role reads or writes them.
-- It executes the functions below, which run as the owner (security definer) with a fixed search path, and which
-- nobody may execute until a role is granted the right.

alter table auth_users
    add column password_changed_at timestamptz not null default now(),
    add column failed_login_attempts integer not null default 0 check (failed_login_attempts >= 0),
    add column locked_until timestamptz,
    add column last_login_at timestamptz,
    add column last_login_ip inet,
    add column email_confirmed_at timestamptz default now(),
    add column email_confirmation_token_hash text,
    add column two_factor_enabled boolean not null default false,
    add column two_factor_secret bytea,
    add column two_factor_recovery_hashes text[] not null default '{}',
    add constraint auth_users_two_factor_check check (not two_factor_enabled or two_factor_secret is not null);
-- Who could sign in until now still can: only for them the address counts as confirmed.
alter table auth_users alter column email_confirmed_at drop default;
comment on column auth_users.password_changed_at is 'Age of the password; for accounts older than this column, the time it was added';
comment on column auth_users.locked_until is 'No sign-in before, whatever the password';
comment on column auth_users.two_factor_secret is 'Encrypted by the application; the database never sees it in clear';

create table refresh_tokens (
    id uuid primary key default gen_random_uuid(),
    user_id uuid not null references auth_users (id) on delete cascade,
    token_hash text not null unique check (token_hash ~ '^[0-9a-f]{64}$'),
    device text,
    ip_address inet,
    created_at timestamptz not null default now(),
    expires_at timestamptz not null,
    revoked_at timestamptz,
    revoked_reason text,
    check (expires_at > created_at),
    check ((revoked_at is null) = (revoked_reason is null))
);
comment on table refresh_tokens is 'Long-lived tokens, by SHA-256: who reads this table can''t use them';

create table user_sessions (
    id uuid primary key default gen_random_uuid(),
    user_id uuid not null references auth_users (id) on delete cascade,
    refresh_token_id uuid references refresh_tokens (id) on delete cascade,
    ip_address inet,
    user_agent text,
    created_at timestamptz not null default now(),
    last_seen_at timestamptz not null default now(),
    expires_at timestamptz not null,
    revoked_at timestamptz,
    revoked_reason text,
    check (expires_at > created_at),
    check ((revoked_at is null) = (revoked_reason is null))
);
comment on table user_sessions is 'Where a user is signed in';

create table login_attempts (
    id uuid primary key default gen_random_uuid(),
    email text not null check (email = lower(email)),
    ip_address inet not null,
    user_agent text,
    success boolean not null,
    failure_reason text,
    attempted_at timestamptz not null default now(),
    check (success = (failure_reason is null))
);
comment on table login_attempts is 'Every attempt to sign in, also to accounts that do not exist';

create table password_reset_tokens (
    id uuid primary key default gen_random_uuid(),
    user_id uuid not null references auth_users (id) on delete cascade,
    token_hash text not null unique check (token_hash ~ '^[0-9a-f]{64}$'),
    created_at timestamptz not null default now(),
    expires_at timestamptz not null,
    used_at timestamptz,
    check (expires_at > created_at)
);
comment on table password_reset_tokens is 'Tokens to choose a new password, by SHA-256, each good for one time';

create index refresh_tokens_user_id_idx on refresh_tokens (user_id);
create index refresh_tokens_expires_at_idx on refresh_tokens (expires_at);
create index user_sessions_user_id_idx on user_sessions (user_id);
create index user_sessions_refresh_token_id_idx on user_sessions (refresh_token_id);
create index user_sessions_expires_at_idx on user_sessions (expires_at);
create index login_attempts_email_attempted_at_idx on login_attempts (email, attempted_at desc);
create index login_attempts_ip_address_attempted_at_idx on login_attempts (ip_address, attempted_at desc);
create index login_attempts_attempted_at_idx on login_attempts (attempted_at);
create index password_reset_tokens_user_id_idx on password_reset_tokens (user_id);
create index password_reset_tokens_expires_at_idx on password_reset_tokens (expires_at);

create function is_login_allowed(
    p_email text,
    p_ip_address inet,
    p_window interval default interval '15 minutes',
    p_max_by_email integer default 10,
    p_max_by_ip integer default 50
) returns boolean
language sql
stable
security definer
set search_path = pg_catalog, public, pg_temp
as $$
    select
        (
            select count(*)
            from public.login_attempts
            where email = lower(p_email) and not success and attempted_at > now() - p_window
        ) < p_max_by_email
        and (
            select count(*)
            from public.login_attempts
            where ip_address = p_ip_address and not success and attempted_at > now() - p_window
        ) < p_max_by_ip
$$;
comment on function is_login_allowed(text, inet, interval, integer, integer) is
    'The rate limit: false once an address or an IP has failed too often lately; ask it before looking at the password';

create function record_login_attempt(
    p_email text,
    p_ip_address inet,
    p_user_agent text,
    p_failure_reason text default null
) returns uuid
language sql
security definer
set search_path = pg_catalog, public, pg_temp
as $$
    insert into public.login_attempts (email, ip_address, user_agent, success, failure_reason)
    values (lower(p_email), p_ip_address, left(p_user_agent, 500), p_failure_reason is null, p_failure_reason)
    returning id
$$;
comment on function record_login_attempt(text, inet, text, text) is
    'Remembers an attempt to sign in; without a reason for failure it succeeded';

-- One statement, so that attempts at the same time are counted one after the other.
create function update_login_statistics(p_user_id uuid, p_success boolean, p_ip_address inet) returns timestamptz
language sql
security definer
set search_path = pg_catalog, public, pg_temp
as $$
    update public.auth_users
    set
        failed_login_attempts = case
            when locked_until > now() then failed_login_attempts
            when p_success then 0
            when locked_until is not null then 1  -- the lock is over: count afresh
            else failed_login_attempts + 1
        end,
        -- Failures during a lock don't prolong it, else anybody could lock anybody out for ever.
        locked_until = case
            when locked_until > now() then locked_until
            when not p_success and locked_until is null and failed_login_attempts + 1 >= 5
                then now() + interval '30 minutes'
        end,
        last_login_at = case
            when p_success and (locked_until > now()) is not true then now()
            else last_login_at
        end,
        last_login_ip = case
            when p_success and (locked_until > now()) is not true then p_ip_address
            else last_login_ip
        end
    where id = p_user_id
    returning locked_until
$$;
comment on function update_login_statistics(uuid, boolean, inet) is
    'Counts a success or failure; five failures lock the account for 30 minutes. Gives the end of the lock, or null';

-- auth_users is closed to the application, and this is the door: one account, by its address, for checking a password.
create function find_account_for_sign_in(p_email text) returns table (
    id uuid,
    password_hash text,
    is_active boolean,
    locked_until timestamptz,
    email_confirmed_at timestamptz,
    two_factor_enabled boolean
)
language sql
stable
security definer
set search_path = pg_catalog, public, pg_temp
as $$
    select id, password_hash, is_active, locked_until, email_confirmed_at, two_factor_enabled
    from public.auth_users
    where lower(email) = lower(p_email)
$$;
comment on function find_account_for_sign_in(text) is 'What sign-in has to know of one account';

create function revoke_sessions_of_token() returns trigger
language plpgsql
set search_path = pg_catalog, public, pg_temp
as $$
begin
    update public.user_sessions
    set revoked_at = new.revoked_at, revoked_reason = new.revoked_reason
    where refresh_token_id = new.id and revoked_at is null;
    return null;
end
$$;
comment on function revoke_sessions_of_token() is 'A revoked token takes its sessions with it';

create trigger revoke_sessions
    after update of revoked_at on refresh_tokens
    for each row
    when (old.revoked_at is null and new.revoked_at is not null)
    execute function revoke_sessions_of_token();

create function revoke_user_sessions(p_user_id uuid, p_reason text) returns bigint
language plpgsql
security definer
set search_path = pg_catalog, public, pg_temp
as $$
declare
    v_revoked bigint;
begin
    update public.user_sessions
    set revoked_at = now(), revoked_reason = p_reason
    where user_id = p_user_id and revoked_at is null;
    get diagnostics v_revoked = row_count;

    update public.refresh_tokens
    set revoked_at = now(), revoked_reason = p_reason
    where user_id = p_user_id and revoked_at is null;

    return v_revoked;
end
$$;
comment on function revoke_user_sessions(uuid, text) is
    'Signs a user out everywhere: sessions and refresh tokens; gives the number of sessions';

create function cleanup_expired_auth_data(p_keep interval default interval '30 days')
returns table (table_name text, deleted bigint)
language sql
security definer
set search_path = pg_catalog, public, pg_temp
as $$
    with sessions as (
        delete from public.user_sessions
        where least(expires_at, revoked_at) < now() - p_keep
        returning 1
    ),
    tokens as (
        delete from public.refresh_tokens
        where least(expires_at, revoked_at) < now() - p_keep
        returning 1
    ),
    resets as (
        delete from public.password_reset_tokens
        where least(expires_at, used_at) < now() - p_keep
        returning 1
    ),
    attempts as (
        delete from public.login_attempts
        where attempted_at < now() - p_keep
        returning 1
    )
    select 'user_sessions', count(*) from sessions
    union all
    select 'refresh_tokens', count(*) from tokens
    union all
    select 'password_reset_tokens', count(*) from resets
    union all
    select 'login_attempts', count(*) from attempts
$$;
comment on function cleanup_expired_auth_data(interval) is
    'Deletes what expired, was revoked or used, or happened longer ago than that; for a nightly job';

revoke execute on function
    is_login_allowed(text, inet, interval, integer, integer),
    record_login_attempt(text, inet, text, text),
    update_login_statistics(uuid, boolean, inet),
    find_account_for_sign_in(text),
    revoke_user_sessions(uuid, text),
    cleanup_expired_auth_data(interval)
from public;

-- ROLLBACK_START
-- irreversible: every session and token (users sign in again), the log of attempts, lock-outs, confirmations of e-mail
-- addresses, and two-factor secrets (users set them up again)
drop function cleanup_expired_auth_data(interval);
drop function revoke_user_sessions(uuid, text);
drop function find_account_for_sign_in(text);
drop function update_login_statistics(uuid, boolean, inet);
drop function record_login_attempt(text, inet, text, text);
drop function is_login_allowed(text, inet, interval, integer, integer);
drop table password_reset_tokens;
drop table login_attempts;
drop table user_sessions;
drop table refresh_tokens;
drop function revoke_sessions_of_token();
alter table auth_users
    drop constraint auth_users_two_factor_check,
    drop column two_factor_recovery_hashes,
    drop column two_factor_secret,
    drop column two_factor_enabled,
    drop column email_confirmation_token_hash,
    drop column email_confirmed_at,
    drop column last_login_ip,
    drop column last_login_at,
    drop column locked_until,
    drop column failed_login_attempts,
    drop column password_changed_at;
-- ROLLBACK_END

-- VALIDATION_START
-- expect: rows = 4
select relname
from pg_catalog.pg_class
where relnamespace = 'public'::regnamespace
  and relkind = 'r'
  and relname in ('refresh_tokens', 'user_sessions', 'login_attempts', 'password_reset_tokens');

-- Each account has an age of its password and a count of failures; nobody is locked for longer than the rule says.
select
    count(*) >= 1 as accounts_are_there,
    bool_and(password_changed_at <= now()) as passwords_have_an_age,
    bool_and(failed_login_attempts between 0 and 5) as failures_are_counted,
    bool_and(coalesce(locked_until <= now() + interval '30 minutes', true)) as locks_end
from auth_users;

-- A new account has to confirm its address.
-- expect: value = false
select atthasdef
from pg_catalog.pg_attribute
where attrelid = to_regclass('auth_users') and attname = 'email_confirmed_at';

-- Definer functions: six, none with a search path that the caller could choose, none open to everybody.
-- expect: rows = 6
select proname
from pg_catalog.pg_proc
where pronamespace = 'public'::regnamespace
  and prosecdef
  and proconfig @> array['search_path=pg_catalog, public, pg_temp']
  and not has_function_privilege('public', oid, 'execute')
  and proname in (
      'is_login_allowed', 'record_login_attempt', 'update_login_statistics',
      'find_account_for_sign_in', 'revoke_user_sessions', 'cleanup_expired_auth_data'
  );

-- expect: value = O
select tgenabled
from pg_catalog.pg_trigger
where tgrelid = to_regclass('refresh_tokens') and tgname = 'revoke_sessions';

-- Both are asked at every sign-in.
-- expect: rows = 2
select indexrelid::regclass
from pg_catalog.pg_index
where indisvalid
  and indexrelid in (
      to_regclass('login_attempts_email_attempted_at_idx'),
      to_regclass('login_attempts_ip_address_attempted_at_idx')
  );
-- VALIDATION_END
