"""The mutation matrix of saved plans: what must be refused is, and what changes nothing that runs is not.

Every mutant is tried with `apply FILE --dry-run`, which makes the plan again, compares, and stops.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from smeta_declare.plan import canonical_digest
from tests.servers import TestDatabase
from tests.workspace import Workspace

REFUSED = (3, 64, 78)  # 64: an environment that is not there

SCHEMA = """
create type mood as enum ('glad');
create table orders (id int primary key, note text, mood mood, amount numeric(10, 2) default 1);
create table apart (id int primary key, note text);
create table measured (id int, at date) partition by range (at);
create view open_orders as select id, note from orders;
create view names as select id from open_orders;
create table lines (id int primary key, order_id int references orders);
create function touch() returns trigger language plpgsql as $$begin return new; end$$;
create trigger orders_touch before update on orders for each row execute function touch();
create index orders_note on orders (note);
create function apart_fn() returns int language sql as 'select 1';
create materialized view kept as select 1 as one;
"""
FORWARD = """alter table orders add column b varchar({{ size }});
create index orders_b on orders (b);
{% include "parts/part.sql" %}
create table b (id int references a (id), at date);
update lines set order_id = order_id;
refresh materialized view kept;
alter type mood add value if not exists 'sad';
create table measured_1 partition of measured for values from ('2026-01-01') to ('2026-02-01');
"""
BACK = "drop table measured_1, b;\nalter table orders drop column b;\n"

# Statements and what takes them back; of what the plan touches, or what hangs on it.
STALE = [
    ("alter table orders add column c int", "alter table orders drop column c"),
    ("alter table orders alter note set not null", "alter table orders alter note drop not null"),
    ("alter table orders alter amount drop default", "alter table orders alter amount set default 1"),
    ("alter table orders alter amount type numeric(12, 2)", "alter table orders alter amount type numeric(10, 2)"),
    ("alter table orders add constraint x check (id > 0)", "alter table orders drop constraint x"),
    ("alter table orders add constraint x check (id > 0) not valid", "alter table orders drop constraint x"),
    ("create index x on orders (id)", "drop index x"),
    ("alter index orders_note rename to x", "alter index x rename to orders_note"),
    ("alter table orders enable row level security", "alter table orders disable row level security"),
    ("alter table orders force row level security", "alter table orders no force row level security"),
    ("create policy x on orders using (true)", "drop policy x on orders"),
    ("grant select on orders to public", "revoke select on orders from public"),
    ("grant select (note) on orders to public", "revoke select (note) on orders from public"),
    ("alter table orders disable trigger orders_touch", "alter table orders enable trigger orders_touch"),
    ("create trigger x after insert on orders for each row execute function touch()", "drop trigger x on orders"),
    ("create rule x as on delete to orders do instead nothing", "drop rule x on orders"),
    ("alter table orders replica identity full", "alter table orders replica identity default"),
    ("alter table orders set (fillfactor = 50)", "alter table orders reset (fillfactor)"),
    ("alter table orders rename note to note_2", "alter table orders rename note_2 to note"),
    ("alter table orders rename to orders_2", "alter table orders_2 rename to orders"),
    ("create view x as select id from orders", "drop view x"),
    ("create view x as select id from names", "drop view x"),
    ("alter view open_orders set (security_barrier = true)", "alter view open_orders reset (security_barrier)"),
    ("grant select on names to public", "revoke select on names from public"),
    ("create table x (id int references orders)", "drop table x"),
    ("create table x () inherits (orders)", "drop table x"),
    ("alter table lines add column c int", "alter table lines drop column c"),
    ("alter table lines drop constraint lines_order_id_fkey",
     "alter table lines add constraint lines_order_id_fkey foreign key (order_id) references orders"),
    ("alter table a add column b int", "alter table a drop column b"),
    ("create table b (id int)", "drop table b"),
    ("create view b as select 1", "drop view b"),
    ("create index orders_b on apart (id)", "drop index orders_b"),
    ("create table measured_1 (id int)", "drop table measured_1"),
    ("alter table measured add column c int", "alter table measured drop column c"),
    ("create index x on kept (one)", "drop index x"),
    ("grant usage on type mood to public; revoke usage on type mood from public",
     "grant usage on type mood to public"),
]  # fmt: skip
FRESH = [
    ("insert into orders (id) select generate_series(1, 200)", "delete from orders"),
    ("analyze", "analyze"),
    ("comment on table orders is 'x'", "comment on table orders is null"),
    ("comment on column orders.note is 'x'", "comment on column orders.note is null"),
    ("create table x (id int)", "drop table x"),
    ("alter table apart add column c int", "alter table apart drop column c"),
    ("create index x on apart (note)", "drop index x"),
    ("grant select on apart to public", "revoke select on apart from public"),
    ("create view x as select * from apart", "drop view x"),
    ("create or replace function apart_fn() returns int language sql as 'select 2'",
     "create or replace function apart_fn() returns int language sql as 'select 1'"),
    ("create type other as enum ('a')", "drop type other"),
    ("create schema elsewhere", "drop schema elsewhere"),
    ("create sequence x", "drop sequence x"),
    ("create table measured_0 partition of measured for values from ('2020-01-01') to ('2020-02-01')",
     "drop table measured_0"),
    ("create statistics x on id, note from orders", "drop statistics x"),
    ("alter table orders alter note set statistics 500", "alter table orders alter note set statistics -1"),
    ("cluster orders using orders_pkey; alter table orders set without cluster", "analyze"),
    ("vacuum full orders", "analyze"),
    ("reindex table orders", "analyze"),
]  # fmt: skip


@dataclass(frozen=True)
class Stage:
    """A project with a plan, and what it takes to try a mutant."""

    workspace: Workspace
    database: TestDatabase
    plan: Path
    document: Any

    def code(self, document: Any = None, **environ: str) -> int:
        """The exit code of a dry run of the plan, or of another document in its place."""
        file = self.plan
        if document is not None:
            file = self.plan.with_name("mutant.json")
            file.write_text(json.dumps(document))
        done = self.workspace.smeta("-v", "apply", str(file), "--dry-run", environ=environ)
        assert "error[bug]" not in done.err, done.err
        return done.code


@pytest.fixture
def stage(workspace: Workspace, database: TestDatabase) -> Stage:
    database.query(SCHEMA)
    workspace.migration("1_a", "create table a (id int primary key);", "drop table a;")
    assert workspace.smeta("apply", "--env", "test").code == 0
    workspace.environment = 'vars: {size: 9, unused: "x"}'
    workspace.more = "checks: [{name: few, sql: select 1 where false, expect: empty}]"
    (workspace.root / "migrations" / "parts").mkdir()
    (workspace.root / "migrations" / "parts" / "part.sql").write_text("grant select on orders to public;\n")
    workspace.migration("2_b", FORWARD, BACK, "select 1 where to_regclass('b') is not null;")
    workspace.migration(
        "3_c", "-- smeta: batch key=id size=10\nupdate orders set note = 'x' where note is null;", "select 1;"
    )
    plan = workspace.root / "plan.json"
    done = workspace.smeta("plan", "--env", "test", "--out", str(plan))
    assert done.code == 0, done.err
    stage = Stage(workspace, database, plan, json.loads(plan.read_text()))
    assert stage.code() == 0
    return stage


def leaves(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The places of all values and of everything that can be taken out."""
    if path:
        yield path
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        yield from leaves(inner, (*path, key))


def mutated(document: Any, path: tuple[Any, ...], *, remove: bool) -> Any:
    """The document with one value changed, or taken out."""
    other = copy.deepcopy(document)
    holder = other
    for key in path[:-1]:
        holder = holder[key]
    last, value = path[-1], holder[path[-1]]
    if remove:
        del holder[last]
        return other
    match value:
        case bool():
            holder[last] = not value
        case int():
            holder[last] = value + 1
        case str():
            holder[last] = value + "x" if not value.isdigit() else str(int(value) + 1)
        case None:
            holder[last] = "x"
        case list():
            holder[last] = [*value, *value[:1]] if value else ["x"]
        case _:
            holder[last] = {**value, "x": None}
    return other


def forged(document: Any) -> Any:
    """With an id that fits what it says now."""
    return {**document, "id": canonical_digest(document["decision"])}


@pytest.mark.parametrize("server", ["pg18"], indirect=True)
def test_no_edited_plan_file_is_accepted(stage: Stage) -> None:
    """Every value of the document changed or taken out, as it is and with a new id: about a thousand mutants."""
    tried, accepted = 0, []
    for path in list(leaves(stage.document)):
        for remove in (False, True):
            mutant = mutated(stage.document, path, remove=remove)
            for document in (mutant, *([forged(mutant)] if path[0] == "decision" and len(path) > 1 else [])):
                tried += 1
                if verdict(stage, document) not in REFUSED:
                    accepted.append((path, remove, document["id"] == stage.document["id"]))
    assert accepted == []
    assert tried >= 300, tried


def verdict(stage: Stage, document: Any) -> int:
    """As `Stage.code`, without asking the database for what the file alone decides."""
    from smeta_declare.errors import SmetaError
    from smeta_declare.saved import read

    file = stage.plan.with_name("mutant.json")
    file.write_text(json.dumps(document))
    try:
        read(file)
    except SmetaError as error:
        return int(error.exit_code)
    return stage.code(document)


def test_the_catalogue_makes_it_stale_exactly_where_the_plan_works(stage: Stage) -> None:
    wrong = []
    for changes, expected in ((STALE, REFUSED), (FRESH, (0,))):
        for change, back in changes:
            for statement in change.split("; "):
                stage.database.query(statement)
            if stage.code() not in expected:
                wrong.append((change, expected))
            stage.database.query(back)
    assert wrong == []
    assert stage.code() == 0, "and everything was taken back"


def replaced(file: str, before: str, after: str) -> Callable[[Stage], None]:
    def change(stage: Stage) -> None:
        path = stage.workspace.root / file
        text = path.read_text()
        assert before in text, (file, before)
        path.write_text(text.replace(before, after))

    return change


def other_address(environ: dict[str, str]) -> None:
    environ["TRIAL_URL"] += "&application_name=x"


B, C, MANIFEST = "migrations/2_b.sql", "migrations/3_c.sql", "smeta.yaml"
EDITS: list[tuple[Callable[[Stage], None], bool]] = [
    (replaced(B, "varchar", "char"), False),
    (replaced(B, "orders_b on orders (b)", "orders_b on orders (b, id)"), False),
    (replaced(B, "refresh materialized view kept;\n", ""), False),
    (replaced(B, "drop table measured_1, b", "drop table b, measured_1"), False),
    (replaced(B, "is not null", "is null"), False),
    (replaced(B, '{% include "parts/part.sql" %}', ""), False),
    (replaced("migrations/parts/part.sql", "select", "insert"), False),
    (replaced("migrations/parts/part.sql", "grant", "-- a comment\ngrant"), True),
    (replaced(B, "alter table orders add", "-- a comment\nalter table orders add"), True),
    (replaced(B, "alter table orders drop", "/* more */ alter table orders drop"), True),
    (replaced(B, "\n", "\r\n"), True),
    (replaced(C, "size=10", "size=11"), False),
    (replaced(C, "key=id", "key=id pause=1s"), False),
    (replaced(C, "note = 'x'", "note = 'y'"), False),
    (replaced(C, "select 1", "select 2"), False),
    (replaced(MANIFEST, "size: 9", "size: 8"), False),
    (replaced(MANIFEST, 'unused: "x"', 'unused: "y"'), False),
    (replaced(MANIFEST, 'unused: "x"', "unused:  x"), True),
    (replaced(MANIFEST, "statement: 30s", "statement: 31s"), False),
    (replaced(MANIFEST, "statement: 30s", "statement: 30000ms"), True),
    (replaced(MANIFEST, "timeout: 200ms", "timeout: 201ms"), False),
    (replaced(MANIFEST, "attempts: 2", "attempts: 3"), False),
    (replaced(MANIFEST, "backup: none", "backup: none\n  transaction: each"), False),
    (replaced(MANIFEST, "backup: none", "backup: none\n  order: strict"), False),
    (replaced(MANIFEST, "project: trial", "project: other"), False),
    (replaced(MANIFEST, "where false", "where 1 = 2"), False),
    (replaced(MANIFEST, "name: few", "name: fewer"), False),
    (replaced(MANIFEST, "2_b, 3_c", "2_b"), False),
    (replaced(MANIFEST, "2_b, 3_c", "3_c, 2_b"), False),
    (replaced(MANIFEST, "manifest: 1", "# a comment\nmanifest: 1\n"), True),
    (replaced(MANIFEST, "${TRIAL_URL}", '"${TRIAL_URL}"'), True),
    (lambda stage: stage.workspace.environ.update(SMETA_VAR_size="8"), False),
    (lambda stage: stage.workspace.environ.update(SMETA_VAR_size="9"), True),
    (lambda stage: other_address(stage.workspace.environ), True),
    (lambda stage: stage.workspace.environ.update(LC_ALL="C", TZ="Asia/Tokyo"), True),
]  # fmt: skip


@pytest.mark.parametrize("server", ["pg18"], indirect=True)
def test_what_would_run_makes_it_stale_and_cosmetics_do_not(stage: Stage) -> None:
    files = [stage.workspace.manifest, *(stage.workspace.root / "migrations").rglob("*.sql")]
    before = {path: path.read_bytes() for path in files}
    environ = dict(stage.workspace.environ)
    wrong = []
    for number, (change, fresh) in enumerate(EDITS):
        change(stage)
        code = stage.code()
        if (code == 0) != fresh or (not fresh and code not in REFUSED):
            wrong.append((number, code, fresh))
        for path, content in before.items():
            path.write_bytes(content)
        stage.workspace.environ = dict(environ)
    assert wrong == []
    assert stage.code() == 0, "and everything was taken back"
