"""What is disturbed: small projects, each with the database it starts from and one command.

Every step leaves a row in `ledger`, which has no key: a step that runs twice leaves two.
"""

# ruff: noqa: S608 # the words in these statements are ours

from __future__ import annotations

from dataclasses import dataclass

_SETUP = """\
create table ledger (what text not null);
create table items (id int primary key, n int not null);
insert into items select i, i % 7 from generate_series(1, 200) i;
"""
_WITH_INDEX = _SETUP + "create index items_n on items (n);"
_PARTITIONED = _SETUP + (
    "create table parts (id int not null, n int) partition by range (id);"
    "create table parts_1 partition of parts for values from (0) to (100);"
    "create table parts_2 partition of parts for values from (100) to (200);"
    "insert into parts select i, i from generate_series(0, 199) i;"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Script:
    """A migration file's sections."""

    version: str
    forward: str
    rollback: str
    validation: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """A project, what its database holds before, and the command that is disturbed."""

    name: str
    scripts: tuple[Script, ...]
    arguments: tuple[str, ...] = ("apply",)
    transaction: str = "all"
    setup: str = _SETUP
    prepare: tuple[tuple[str, ...], ...] = ()  # commands that run undisturbed before
    blocked: str | None = None  # the table on which its statement outside transactions can be made to wait
    counted: bool = False  # `rollback N` once more would undo more where nothing is open


def _ledger(what: str) -> str:
    return f"insert into ledger values ('{what}');\n"


_FOUR = (
    Script(
        version="1_customers",
        forward="create table customers (id bigint generated always as identity primary key, name text not null);\n"
        "insert into customers (name) values ('one'), ('two');\n" + _ledger("1_customers"),
        rollback=_ledger("back 1_customers") + "drop table customers;",
        validation="select count(*) = 2 from customers;",
    ),
    Script(
        version="2_orders",
        forward="create table orders (id int primary key, customer bigint not null references customers);\n"
        "create index orders_customer on orders (customer);\n" + _ledger("2_orders"),
        rollback=_ledger("back 2_orders") + "drop table orders;",
    ),
    Script(
        version="3_note",
        forward="alter table customers add column note text not null default 'none';\n"
        "update customers set note = note || '!';\n" + _ledger("3_note"),
        rollback="alter table customers drop column note;\n" + _ledger("back 3_note"),
        validation="select count(*) = 2 from customers where note = 'none!';",
    ),
    Script(
        version="4_view",
        forward="create view names as select name, note from customers;\n" + _ledger("4_view"),
        rollback="drop view names;\n" + _ledger("back 4_view"),
    ),
)


def _around(statement: str, undo: str) -> tuple[Script, ...]:
    """Three migrations; the middle one has a statement outside transactions between two transactions."""
    return (
        Script(version="1_before", forward=_ledger("1_before"), rollback=_ledger("back 1_before")),
        Script(
            version="2_alone",
            forward=_ledger("2_alone first") + statement + _ledger("2_alone last"),
            rollback=_ledger("back 2_alone first") + undo + _ledger("back 2_alone last"),
        ),
        Script(version="3_after", forward=_ledger("3_after"), rollback=_ledger("back 3_after")),
    )


_BUILD = "create index concurrently items_n on items (n);\n"
_DROP = "drop index concurrently items_n;\n"
_BATCHES = "-- smeta: batch key=id size=40\nupdate items set n = n + 1;\n"
_BATCHES_BACK = "-- smeta: batch key=id size=60\nupdate items set n = n - 1;\n"
_ATTACH = "alter table parts attach partition parts_1 for values from (0) to (100);\n"

SCENARIOS = (
    Scenario(name="all", scripts=_FOUR),
    Scenario(name="each", scripts=_FOUR, transaction="each"),
    Scenario(name="build", scripts=_around(_BUILD, _DROP), blocked="items"),
    Scenario(name="drop", scripts=_around(_DROP, _BUILD), setup=_WITH_INDEX, blocked="items"),
    Scenario(
        name="reindex",
        scripts=_around("reindex index concurrently items_n;\n", ""),
        setup=_WITH_INDEX,
        blocked="items",
    ),
    Scenario(
        name="detach",
        scripts=_around("alter table parts detach partition parts_1 concurrently;\n", _ATTACH),
        setup=_PARTITIONED,
        blocked="parts",
    ),
    Scenario(name="vacuum", scripts=_around("vacuum (analyze) items;\n", "")),
    Scenario(
        name="back",
        scripts=_FOUR,
        prepare=(("apply",),),
        arguments=("rollback", "--to", "1_customers", "--allow-destructive"),
    ),
    Scenario(
        name="back-each",
        scripts=_FOUR,
        transaction="each",
        prepare=(("apply",),),
        arguments=("rollback", "--to", "1_customers", "--allow-destructive"),
    ),
    Scenario(
        name="back-count",
        scripts=_FOUR,
        transaction="each",
        prepare=(("apply",),),
        arguments=("rollback", "2", "--allow-destructive"),
        counted=True,
    ),
    Scenario(
        name="back-drop",
        scripts=_around(_BUILD, _DROP),
        prepare=(("apply",),),
        arguments=("rollback", "--to", "1_before", "--allow-destructive"),
        blocked="items",
    ),
    Scenario(
        name="back-build",
        scripts=_around(_DROP, _BUILD),
        setup=_WITH_INDEX,
        prepare=(("apply",),),
        arguments=("rollback", "--to", "1_before", "--allow-destructive"),
        blocked="items",
    ),
    # A second execution of a batch shows by itself: n would be one more.
    Scenario(name="batch", scripts=_around(_BATCHES, _BATCHES_BACK)),
    Scenario(
        name="back-batch",
        scripts=_around(_BATCHES, _BATCHES_BACK),
        prepare=(("apply",),),
        arguments=("rollback", "--to", "1_before", "--allow-destructive"),
    ),
)


def scenario(name: str) -> Scenario:
    """The scenario of that name."""
    return next(s for s in SCENARIOS if s.name == name)
