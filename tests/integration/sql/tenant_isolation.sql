-- The attack. Run after two_tenants.sql, in one transaction that is rolled back, by the owner and by any role that may
-- read and write the tables; every block raises what leaked. A "nothing seen" counts only beside a "saw its own".

-- Reading and writing without a where clause, in every state of the context. The update reads no column: only so
-- PostgreSQL leaves out the policies for select, and one for update that is too wide shows.
do $$
declare
    v_a constant uuid := 'aaaaaaaa-1111-4111-8111-111111111111';
    v_context text;
    v_table text;
    v_own bigint;
    v_shared bigint;
    v_foreign bigint;
    v_touched bigint;
    v_writes boolean;
begin
    foreach v_table in array array[
        'projects', 'estimates', 'estimate_items', 'statistics', 'user_tenants', 'audit_log',
        'materials', 'works', 'work_materials'
    ] loop
        perform set_tenant_context(v_a);
        execute format(
            'select count(*) filter (where tenant_id = $1), count(*) filter (where tenant_id is null),
                    count(*) filter (where tenant_id <> $1) from %I', v_table)
        into v_own, v_shared, v_foreign using v_a;
        if v_own = 0 then raise exception '%: a tenant does not see its own rows', v_table; end if;
        if v_foreign > 0 then raise exception '%: a tenant sees % rows of others', v_table, v_foreign; end if;
        if (v_shared > 0) <> (v_table in ('materials', 'works', 'work_materials')) then
            raise exception '%: % shared rows', v_table, v_shared;
        end if;

        v_writes := has_table_privilege(v_table, 'update');  -- who may not change a log at all changes no other's
        if v_writes then
            execute format('update %I set created_at = ''2026-11-01 00:00+00''', v_table);
            get diagnostics v_touched = row_count;
            if v_touched <> v_own then
                raise exception '%: a blind update hit % rows, own are %', v_table, v_touched, v_own;
            end if;
        end if;

        foreach v_context in array array['', null, gen_random_uuid()::text] loop
            perform set_config('app.current_tenant_id', v_context, true);
            execute format('select count(*) filter (where tenant_id is not null) from %I', v_table) into v_foreign;
            if v_foreign > 0 then raise exception '%: % rows in context %', v_table, v_foreign, v_context; end if;
            if coalesce(v_context, '') = '' then
                execute format('select count(*) from %I', v_table) into v_foreign;
                if v_foreign > 0 then raise exception '%: % rows without a context', v_table, v_foreign; end if;
            end if;
            if v_writes then
                execute format('update %I set created_at = ''2026-11-01 00:00+00''', v_table);
                get diagnostics v_touched = row_count;
                if v_touched > 0 then
                    raise exception '%: an update in context % hit % rows', v_table, v_context, v_touched;
                end if;
            end if;
        end loop;
    end loop;
end
$$;

-- The registry: a tenant sees itself.
do $$
begin
    perform set_tenant_context('aaaaaaaa-1111-4111-8111-111111111111');
    if (select string_agg(subdomain, ',') from tenants) is distinct from 'tenant-a' then
        raise exception 'tenants: %', (select string_agg(subdomain, ',') from tenants);
    end if;
    perform set_tenant_context(null);
    if exists (select from tenants) then raise exception 'tenants: visible without a context'; end if;
end
$$;

-- Each of these has to be refused, with the error it says.
do $$
declare
    v_attempt record;
    v_state text;
begin
    perform set_tenant_context('bbbbbbbb-2222-4222-8222-222222222222');
    -- Ids of B, which A has learnt somehow.
    perform set_config('probe.project', (select id::text from projects), true);
    perform set_config('probe.estimate', (select id::text from estimates), true);
    perform set_tenant_context('aaaaaaaa-1111-4111-8111-111111111111');
    perform set_config('probe.own_estimate', (select id::text from estimates), true);

    for v_attempt in
        select *
        from (values
            ('a row for another tenant', '42501',
             $q$insert into projects (tenant_id, name) values ('bbbbbbbb-2222-4222-8222-222222222222', 'x')$q$),
            ('a row for no tenant', '42501', $q$insert into projects (tenant_id, name) values (null, 'x')$q$),
            ('a row given away', '42501',
             $q$update projects set tenant_id = 'bbbbbbbb-2222-4222-8222-222222222222'$q$),
            ('a shared material', '42501',
             $q$insert into materials (tenant_id, id, name, unit, unit_price) values (null, 'm.x', 'x', 'x', 1)$q$),
            ('a material made shared', '42501', 'update materials set tenant_id = null'),
            ('a material for another tenant', '42501',
             $q$insert into materials (tenant_id, id, name, unit, unit_price)
                values ('bbbbbbbb-2222-4222-8222-222222222222', 'm.x', 'x', 'x', 1)$q$),
            ('an estimate in the project of another tenant', '23503',
             $q$insert into estimates (project_id, number, title)
                values (current_setting('probe.project')::uuid, '1', 'x')$q$),
            ('a line in the estimate of another tenant', '23503',
             $q$insert into estimate_items (estimate_id, kind, name, unit, quantity, unit_price)
                values (current_setting('probe.estimate')::uuid, 'custom', 'x', 'x', 1, 1)$q$),
            ('a line with the material of another tenant', '23514',
             $q$insert into estimate_items
                    (estimate_id, kind, material_tenant_key, material_id, name, unit, quantity, unit_price)
                values (current_setting('probe.own_estimate')::uuid, 'material',
                        'bbbbbbbb-2222-4222-8222-222222222222', 'm.1', 'x', 'x', 1, 1)$q$),
            ('consumption of the material of another tenant', '23514',
             $q$insert into work_materials (work_id, material_tenant_key, material_id, consumption_per_work_unit)
                values ('w.1', 'bbbbbbbb-2222-4222-8222-222222222222', 'm.1', 1)$q$)
        ) as attempt (what, expected, statement)
    loop
        v_state := '00000';
        begin
            execute v_attempt.statement;
        exception when others then
            v_state := sqlstate;
        end;
        -- 42501 comes first for no tenant as well, or 23502 where the column is not null: both refuse.
        if v_state <> v_attempt.expected and not (v_attempt.expected = '42501' and v_state = '23502') then
            raise exception '% was answered with %, not with %', v_attempt.what, v_state, v_attempt.expected;
        end if;
    end loop;
end
$$;

-- A partition by its own name is a way around its parent's policies: closed, by privilege or by row security.
do $$
declare
    v_partition regclass;
    v_seen bigint;
begin
    perform set_tenant_context('aaaaaaaa-1111-4111-8111-111111111111');
    for v_partition in select relid from pg_partition_tree('statistics') where isleaf loop
        begin
            execute format('select count(*) from %s', v_partition) into v_seen;
        exception when insufficient_privilege then
            v_seen := 0;
        end;
        if v_seen > 0 then raise exception '%: % rows seen beside the parent', v_partition, v_seen; end if;
    end loop;
end
$$;

-- Deleting without a where clause hits one's own; shared rows are used by everybody and deleted by nobody.
do $$
declare
    v_table text;
    v_own bigint;
    v_deleted bigint;
begin
    perform set_tenant_context('aaaaaaaa-1111-4111-8111-111111111111');
    if (select count(*) from materials where id = 'm.1') <> 2 then
        raise exception 'm.1 should be there twice: shared, and the tenant''s own';
    end if;
    -- Children first, so that no foreign key gets in the way of the proof.
    foreach v_table in array array[
        'estimate_items', 'estimates', 'projects', 'work_materials', 'works', 'materials',
        'statistics', 'user_tenants', 'audit_log'
    ] loop
        continue when not has_table_privilege(v_table, 'delete');
        execute format('select count(*) from %I where tenant_id is not null', v_table) into v_own;
        execute format('delete from %I', v_table);
        get diagnostics v_deleted = row_count;
        if v_own = 0 or v_deleted <> v_own then
            raise exception '%: a blind delete hit % rows, own are %', v_table, v_deleted, v_own;
        end if;
    end loop;
    if not exists (select from materials where tenant_id is null) then
        raise exception 'the shared materials are gone';
    end if;
end
$$;

-- A context set in a part that is undone does not stay.
do $$
begin
    perform set_tenant_context('aaaaaaaa-1111-4111-8111-111111111111');
    begin
        perform set_tenant_context('bbbbbbbb-2222-4222-8222-222222222222');
        raise exception using errcode = 'P0099';
    exception when sqlstate 'P0099' then
        null;
    end;
    if get_current_tenant_id() is distinct from 'aaaaaaaa-1111-4111-8111-111111111111' then
        raise exception 'the context after an undone part is %', get_current_tenant_id();
    end if;
end
$$;

-- A context that is no uuid is an error, and no rows.
do $$
begin
    begin
        perform set_config('app.current_tenant_id', 'tenant-b', true);
        perform count(*) from projects;
    exception when invalid_text_representation then
        return;
    end;
    raise exception 'a context that is no uuid was accepted';
end
$$;
