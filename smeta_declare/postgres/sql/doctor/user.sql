-- Who we are, and whether a role is there that we may become (null: no role is asked for).
select session_user::text,
       %(role)s::text is null or exists (select from pg_catalog.pg_roles where rolname = %(role)s),
       (select pg_catalog.pg_has_role(session_user, oid, %(become)s) from pg_catalog.pg_roles where rolname = %(role)s);
