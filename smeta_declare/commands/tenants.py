"""`smeta tenants list | create | show`."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import click

from smeta_declare.cli import options
from smeta_declare.cli.app import App
from smeta_declare.cli.running import RunOptions, consent
from smeta_declare.cli.views import answer, answer_json, table, talk
from smeta_declare.errors import UsageError

if TYPE_CHECKING:
    from smeta_declare.tenants import Tenant, Tenants


@click.group()
def command() -> None:
    """List the tenants that `tenancy:` declares a registry for, register one, and show what is a tenant's."""


def _document(environment: str, tenants: list[Tenant], *, more: bool = False) -> dict[str, Any]:
    return {
        "format": "smeta.tenants/1",
        "environment": environment,
        "tenants": [tenant.as_dict() for tenant in tenants],
        "more": more,
    }


def _cell(value: Any) -> str:
    text = value if isinstance(value, str) else "" if value is None else json.dumps(value, ensure_ascii=False)
    return " ".join(text.split())  # a name with line breaks forges no line of ours


@command.command("list")
@options.environment
@click.option(
    "--limit", type=click.IntRange(1, 1_000_000), default=1000, show_default=True, help="At most so many."
)
@options.format
@click.pass_obj
def list_command(app: App, environment: str, limit: int, output: str) -> None:
    """List the tenants by key; nothing is changed."""
    from smeta_declare.tenants import tenants_of  # here, so that `--help` needs no driver

    with tenants_of(app.reader(app.resolve(environment))) as tenants:
        found = tenants.listed(limit)
    if output == "json":
        answer_json(_document(environment, list(found.tenants), more=found.more))
        return
    if not found.tenants:
        answer("no tenants")
        return
    names = list(found.tenants[0].columns)
    rows = [(t.id, *(_cell(t.columns[name]) for name in names)) for t in found.tenants]
    answer(table(rows, headings=("id", *names)))
    if found.more:
        talk(f"there are more than {limit}: --limit shows more")


@command.command()
@options.environment
@click.argument("name")
@click.option(
    "--set", "given", multiple=True, metavar="COLUMN=VALUE", help="Another column; may be repeated."
)
@click.option("--id", "key", metavar="ID", help="The key, where the registry does not make one.")
@click.option("--confirm", metavar="NAME", help="The name of a protected environment: consent to change it.")
@options.format
@click.pass_obj
def create(
    app: App,
    environment: str,
    name: str,
    given: tuple[str, ...],
    key: str | None,
    confirm: str | None,
    output: str,
) -> None:
    """Register the tenant NAME in one transaction, and print its id."""
    from smeta_declare.tenants import tenancy_of, tenants_of

    resolved = app.resolve(environment)
    values = _values(name, given, key, tenancy_of(resolved).key)
    _agree(app, resolved, confirm, output)
    with tenants_of(app.reader(resolved)) as tenants:
        tenant = _created(tenants, values)
    if output == "json":
        answer_json(_document(environment, [tenant]))
    else:
        answer(tenant.id)


def _created(tenants: Tenants, values: dict[str, str]) -> Tenant:
    from smeta_declare.tenants import Tenant

    key = tenants.create(values)
    return Tenant(id=key, columns={name: v for name, v in values.items() if name != tenants.tenancy.key})


def _values(name: str, given: tuple[str, ...], key: str | None, key_column: str) -> dict[str, str]:
    """The columns of a new tenant, from the command line."""
    values = {key_column: key} if key is not None else {}
    values["name"] = name
    for text in given:
        column, equals, value = text.partition("=")
        if not equals or not column:
            raise UsageError(f"--set {text!r} is no COLUMN=VALUE", hint="for instance --set subdomain=acme")
        if column in values:
            raise UsageError(f"{column} is given twice", hint="NAME is the column name, --id the key")
        values[column] = value
    for column, value in values.items():
        if not value.strip() or not value.isprintable():
            raise UsageError(
                f"{column} is empty or has characters that cannot be printed",
                hint="write it without line breaks and control characters",
            )
    return values


def _agree(app: App, environment: Any, confirm: str | None, output: str) -> None:
    asked = RunOptions(
        dry_run=False,
        skip_backup=None,
        no_backup=False,
        confirm=confirm,
        allow_destructive=False,
        runner_wait=None,
        lock_timeout=None,
        auto_approve=False,
        output=output,
    )
    consent(environment, asked, interactive=app.interactive, what="register a tenant there")


@command.command()
@options.environment
@click.argument("tenant", metavar="ID")
@click.option(
    "--limit",
    type=click.IntRange(1, 1_000_000_000),
    default=10_000,
    show_default=True,
    help="Count no further.",
)
@options.format
@click.pass_obj
def show(app: App, environment: str, tenant: str, limit: int, output: str) -> None:
    """Show the row of the tenant ID, and how many rows of each table are its own; nothing is changed."""
    from smeta_declare.tenants import tenants_of

    with tenants_of(app.reader(app.resolve(environment))) as tenants:
        found = tenants.show(tenant, limit)
    if output == "json":
        answer_json(_document(environment, [found]))
        return
    answer(table([(name, _cell(v)) for name, v in found.columns.items()], headings=("id", found.id)))
    counts = [(c.table, f"more than {c.rows:,}" if c.more else f"{c.rows:,}") for c in found.counts or ()]
    if counts:
        answer("")
        answer(table(counts, headings=("table", "rows")))
    else:
        talk("no table has rows that are a tenant's: what `tenancy:` declares is not applied yet")
