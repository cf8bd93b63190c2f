"""`tenancy:` of the manifest: what is read, what is told when it contradicts itself."""

from __future__ import annotations

import pytest

from smeta_declare.errors import InvalidManifest, TemplateError
from smeta_declare.manifest import parse_manifest
from smeta_declare.resolve import effective, explain, resolve
from smeta_declare.template import render
from smeta_declare.tenancy.declaration import Name, Roles

HEAD = """\
manifest: 1
project: p
environments: {dev: {database: embedded}}
migrations: {apply: [1_base, 2_tenants]}
"""
TENANCY = """\
tenancy:
  strategy: row
  since: 2_tenants
  registry: {table: tenants}
  roles: {owner: own, application: [app, worker], read_only: [reader]}
  default_tenant: {name: First, subdomain: default}
  policy_form: inline
  tables:
    tenants: registry
    projects: tenant
    Sales.Orders: {class: tenant, parent: projects, application: [select, insert], policy_form: initplan}
    notes: {class: tenant, parent: projects, via: project_id}
    materials: overlay
    '"odd.one"': global
    secrets: internal
"""


def findings(block: str) -> list[tuple[int, str]]:
    """Line and message of everything that is told about a manifest."""
    with pytest.raises(InvalidManifest) as caught:
        parse_manifest(HEAD + block, file="smeta.yaml")
    return [(f.location.line, f.message) for f in caught.value.findings if f.location]


def test_declaration_is_read_with_its_defaults() -> None:
    tenancy = resolve(parse_manifest(HEAD + TENANCY, file="smeta.yaml"), "dev", {}).tenancy

    assert tenancy is not None
    assert (tenancy.registry, tenancy.key, tenancy.column) == (Name("public", "tenants"), "id", "tenant_id")
    assert tenancy.roles == Roles(owner="own", application=("app", "worker"), read_only=("reader",))
    assert tenancy.roles.bound == ("app", "worker", "reader", "own")
    assert tenancy.functions.setter.sql == "public.set_tenant_context"
    assert dict(tenancy.default_tenant) == {"name": "First", "subdomain": "default"}
    orders, notes = tenancy.of(Name("Sales", "Orders")), tenancy.of(Name("public", "notes"))
    assert orders is not None
    assert notes is not None
    assert (orders.application, orders.read_only) == (("select", "insert"), ("select",))
    assert (orders.policy_form, notes.policy_form) == ("initplan", "inline")
    assert (notes.parent, notes.via, notes.has_column) == (Name("public", "projects"), "project_id", False)
    assert orders.location is not None
    assert orders.location.line == 15
    grants = {t.name.name: (t.application, t.read_only) for t in tenancy.tables}
    assert grants["odd.one"] == (("select",), ("select",))
    assert grants["secrets"] == ((), ())


def test_registry_need_not_be_listed() -> None:
    manifest = parse_manifest(HEAD + TENANCY.replace("    tenants: registry\n", ""), file="smeta.yaml")

    tenancy = resolve(manifest, "dev", {}).tenancy

    assert tenancy is not None
    assert [t.kind for t in tenancy.tables if t.name == tenancy.registry] == ["registry"]


@pytest.mark.parametrize(
    ("before", "after", "line", "said"),
    [
        ("strategy: row", "strategy: schema", 6, "`tenancy.strategy` must be `row`, not `schema`"),
        ("since: 2_tenants", "since: 2_tenant", 7, "`tenancy.since` names `2_tenant`, and there is no such"),
        ("projects: tenant", "projects: tennant", 14, "must be `tenant` or `overlay`"),
        ("parent: projects, app", "parent: project, app", 15, "has the parent `project`, which has no class"),
        ("parent: projects, app", "parent: secrets, app", 15, "whose class `internal` has no tenant to give"),
        ("parent: projects, via", "via", 16, "`notes` is a tenant's by `via`, and has no `parent`"),
        ("materials: overlay", "materials: registry", 17, "`materials` cannot be the registry"),
        ("tenants: registry", "tenants: global", 13, "`tenants` is the registry, and its class here is"),
        ("tenants: registry", "public.tenants: tenant", 13, "`public.tenants` is the registry"),
        ("materials: overlay", "public.projects: tenant", 17, "`public.projects` is the relation that"),
        ("projects: tenant", "projects: {class: tenant, parent: Sales.Orders}", 14, "parents lead back"),
        ("parent: projects, via", "parent: notes, via", 16, "parents lead back to where they begin: `notes`"),
        ("secrets: internal", "secrets: {class: internal, application: [select]}", 19, "cannot select there"),
        ("secrets: internal", "secrets: {class: internal, via: x}", 19, "has no `parent`"),
        ("read_only: [reader]", "read_only: [app]", 9, "`app` is named as `application` and as `read_only`"),
        ("policy_form: inline", "form: inline", 11, "`form` is no key of `tenancy`"),
        ("projects: tenant", "a.b.c: tenant", 14, "must be a relation: `table` or `schema.table`"),
    ],
)  # fmt: skip
def test_mistake_is_told_with_its_place(before: str, after: str, line: int, said: str) -> None:
    assert before in TENANCY

    found = findings(TENANCY.replace(before, after, 1))

    assert [(at, said in message) for at, message in found if said in message] == [(line, True)], found


def test_settings_are_explained_with_what_is_built_in() -> None:
    manifest = parse_manifest(HEAD + TENANCY, file="smeta.yaml")

    told = {s.path: (s.value, s.origin) for s in explain(manifest, "dev", {})}

    assert told["tenancy.setting"] == ("app.current_tenant_id", "built-in default")
    assert told["tenancy.roles.application"] == (["app", "worker"], "tenancy.roles")
    assert effective(manifest, "dev", {})["tenancy"]["tables"]["Sales.Orders"]["parent"] == "projects"


@pytest.mark.parametrize("text", ["", ".a", "a.", "a.b.c", 'a"b', '"a', "a..b"])
def test_what_is_no_name_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is no table"):
        Name.written(text)


def test_names_keep_capitals_and_dots_in_quotes() -> None:
    assert Name.written('Sales."a.""b"') == Name("Sales", 'a."b')
    assert Name.written("Order Items").sql == 'public."Order Items"'
    assert str(Name.written("public.orders")) == "orders"


def test_migrations_read_the_declaration() -> None:
    environment = resolve(parse_manifest(HEAD + TENANCY, file="smeta.yaml"), "dev", {})
    source = (
        "{% for t in tenancy.tables.tenant %}"
        "alter table {{ t.schema|ident }}.{{ t.name|ident }} alter {{ tenancy.column }} drop default;\n"
        "{% endfor %}"
        "select {{ tenancy.functions.set }}({{ tenancy.registry.key }}), {{ tenancy.setting|literal }},"
        " {{ tenancy.roles.application|join(' ')|literal }};"
    )

    rendered = render(
        source, name="m.sql", variables=environment.template_variables(), load=lambda _name: None
    )

    assert rendered.text == (
        "alter table public.projects alter tenant_id drop default;\n"
        'alter table "Sales"."Orders" alter tenant_id drop default;\n'
        "alter table public.notes alter tenant_id drop default;\n"
        "select set_tenant_context(id), 'app.current_tenant_id', 'app worker';"
    )


@pytest.mark.parametrize("value", ["tenancy", "tenancy.tables", "tenancy.columm", "tenancy.tables.tenant"])
def test_what_is_no_word_of_the_declaration_is_not_printed(value: str) -> None:
    environment = resolve(parse_manifest(HEAD + TENANCY, file="smeta.yaml"), "dev", {})

    with pytest.raises(TemplateError):
        render(
            f"select {{{{ {value} }}}};",
            name="m.sql",
            variables=environment.template_variables(),
            load=lambda _name: None,
        )
