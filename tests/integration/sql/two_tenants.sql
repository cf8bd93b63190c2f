-- Two tenants of SMETA360 with one row of everything, under the same catalogue ids. Run by the owner, after all migrations;
-- row security binds it too, so each row is written in the context of its tenant.
do $$
declare
    v_tenant uuid;
    v_project uuid;
    v_estimate uuid;
begin
    foreach v_tenant in array array[
        'aaaaaaaa-1111-4111-8111-111111111111', 'bbbbbbbb-2222-4222-8222-222222222222'
    ]::uuid[] loop
        perform set_tenant_context(v_tenant);
        insert into tenants (id, name, subdomain)
        values (v_tenant, 'Подрядчик ' || left(v_tenant::text, 1), 'tenant-' || left(v_tenant::text, 1));
        insert into materials (id, name, unit, unit_price) values ('m.1', 'Бетон М300, своя цена', 'м³', 6100);
        insert into works (id, name, category, type, unit, unit_price, phase_id)
        values ('w.own', 'Свой вид работ', 'Прочее', 'ручная', 'ч', 900, 'p.1');
        insert into work_materials (work_tenant_key, work_id, material_tenant_key, material_id, consumption_per_work_unit)
        values (v_tenant::text, 'w.own', v_tenant::text, 'm.1', 1);
        insert into projects (name) values ('Склад') returning id into v_project;
        insert into estimates (project_id, number, title) values (v_project, 'ЛС-01', 'Полы') returning id into v_estimate;
        insert into estimate_items (estimate_id, kind, material_tenant_key, material_id, name, unit, quantity, unit_price)
        values
            (v_estimate, 'material', v_tenant::text, 'm.1', 'Бетон, своя цена', 'м³', 10, 6100),
            (v_estimate, 'material', 'shared', 'm.1', 'Бетон по каталогу', 'м³', 10, 6450);
        insert into statistics (type, metric_name, metric_value) values ('search', 'materials_searched', 1);
        insert into user_tenants (user_id, organisation)
        values ('8b2f5da1-36ce-4049-97d2-ae9f8a7b6c52', 'АО «Вектор»');
        insert into audit_log (table_name, record_id, action, new_values) values ('projects', v_project::text, 'insert', '{}');
    end loop;
    perform set_tenant_context(null);
end
$$;
