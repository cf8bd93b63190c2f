-- What `make demo` shows: two companies of SMETA360 in one table, as the owner of the table, whom row security binds.
-- Run by psql after all migrations; everything is rolled back.
\set QUIET on
\pset footer off
\o /dev/null
begin;
select set_tenant_context('aaaaaaaa-1111-4111-8111-111111111111');
insert into tenants (id, name, subdomain) values ('aaaaaaaa-1111-4111-8111-111111111111', 'ООО «Ромашка»', 'romashka');
insert into projects (name, customer) values ('Склад', 'АО «Север»');
select set_tenant_context('bbbbbbbb-2222-4222-8222-222222222222');
insert into tenants (id, name, subdomain) values ('bbbbbbbb-2222-4222-8222-222222222222', 'ООО «Василёк»', 'vasilyok');
insert into projects (name, customer) values ('Котельная', 'АО «Юг»');
select set_tenant_context('aaaaaaaa-1111-4111-8111-111111111111');
\o
\echo 'One company asks for all tenants and all projects:'
select tenants.name as company, projects.name as project, customer from tenants cross join projects;
\o /dev/null
select set_tenant_context('bbbbbbbb-2222-4222-8222-222222222222');
\o
\echo 'The other one, the same question:'
select tenants.name as company, projects.name as project, customer from tenants cross join projects;
\o /dev/null
select set_tenant_context(null);
\o
\echo 'Nobody in particular:'
select count(*) as projects from projects;
rollback;
