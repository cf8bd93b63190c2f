"""`smeta doctor`: what stands in the way of a migration is found on real servers, and looking leaves no trace."""

from __future__ import annotations

import contextlib
import json
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from jsonschema import Draft202012Validator

from smeta_declare.cli.app import App
from smeta_declare.doctor import examine
from smeta_declare.postgres.server import SUPERUSER, Server
from tests.pooler import make_user, pgbouncer
from tests.servers import TestDatabase, TestServer
from tests.workspace import Workspace

SCHEMA = json.loads((Path(__file__).parents[2] / "schemas/findings.schema.json").read_text(encoding="utf-8"))
FULL = "backups: {policies: {kept: {scope: full, format: plain}, defs: {scope: schema, format: plain}}}"
PG18 = pytest.mark.parametrize("server", ["pg18"], indirect=True)


def findings(workspace: Workspace, code: str | None = None) -> list[dict[str, Any]]:
    """The findings of a code, or all; the exit code fits them and the document its schema."""
    outcome = workspace.smeta("doctor", "--env", "test", "--format", "json")
    Draft202012Validator(SCHEMA).validate(outcome.json)
    found: list[dict[str, Any]] = outcome.json["findings"]
    bad = any(f["severity"] in ("critical", "high") for f in found)
    assert (outcome.code, outcome.json["verdict"]) == ((1, "failed") if bad else (0, "passed")), outcome.err
    return [f for f in found if code in (None, f["code"])]


def only(workspace: Workspace, code: str) -> dict[str, Any]:
    (found,) = findings(workspace, code)
    return found


def until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 15
    while not condition():
        assert time.monotonic() < deadline, "it does not come to that"
        time.sleep(0.02)


@contextlib.contextmanager
def client(dsn: str, *statements: str) -> Iterator[psycopg.Connection[Any]]:
    with contextlib.closing(psycopg.connect(dsn, autocommit=True, application_name="shop")) as connection:
        for statement in statements:
            connection.execute(statement.encode())
        yield connection


def set_up(workspace: Workspace, *lines: str, more: str = "") -> None:
    workspace.environment = "\n    ".join(lines) or "{}"
    workspace.more = more
    workspace.write_manifest()


CATALOG = "select (select count(*) from pg_class), (select count(*) from pg_namespace)"


def test_healthy_database_has_no_findings_and_nothing_is_made(
    workspace: Workspace, database: TestDatabase
) -> None:
    workspace.migration("1_orders", "create table orders (id int);", "drop table orders;")
    # On a server of our own the next transaction number says whether anybody wrote.
    catalog = CATALOG if database.server.id == "url" else f"{CATALOG}, pg_current_snapshot()::text"
    before = database.query_as_admin(catalog)

    new = findings(workspace)
    after = database.query_as_admin(catalog)
    assert workspace.smeta("apply", "--env", "test").code == 0
    applied = findings(workspace)

    assert [f["code"] for f in new if f["code"] != "pg-dump-unproven"] == ["no-history"]
    assert after == before
    assert [f for f in applied if f["code"] != "pg-dump-unproven"] == []


@PG18
def test_human_answer_says_what_to_do(workspace: Workspace, database: TestDatabase) -> None:
    database.query("create table orders (id int); insert into orders values (1), (1)")
    with contextlib.suppress(psycopg.errors.UniqueViolation):
        database.query("create unique index concurrently orders_id on orders (id)")

    outcome = workspace.smeta("doctor", "--env", "test")

    assert outcome.code == 1
    assert "high[invalid-index]: index public.orders_id on public.orders is invalid" in outcome.out
    assert "  = next: drop index concurrently public.orders_id; then" in outcome.out
    assert "questions asked: 1 high" in outcome.out
    database.query("drop index concurrently public.orders_id")
    assert workspace.smeta("doctor", "--env", "test").code == 0


def test_leftovers_in_the_catalogue_are_found_with_the_statement_that_ends_them(
    workspace: Workspace, database: TestDatabase
) -> None:
    database.query(
        'create table orders (id int, "To" int); insert into orders values (1, 1), (1, -1);'
        'alter table orders add constraint "Positive" check ("To" > 0) not valid;'
        "create domain price as int; alter domain price add constraint p check (value > 0) not valid;"
    )
    with contextlib.suppress(psycopg.errors.UniqueViolation):
        database.query('create unique index concurrently "Orders Id_ccnew" on orders (id)')

    index, constraints = only(workspace, "invalid-index"), findings(workspace, "unvalidated-constraint")

    assert (index["severity"], index["object"]) == ("high", 'public."Orders Id_ccnew"')
    assert index["hint"] == 'drop index concurrently public."Orders Id_ccnew"'
    assert {c["hint"] for c in constraints} == {
        'alter table public.orders validate constraint "Positive"',
        "alter domain public.price validate constraint p",
    }
    for statement in (index["hint"], 'delete from orders where "To" < 0', *(c["hint"] for c in constraints)):
        database.query(statement)
    assert findings(workspace, "invalid-index") + findings(workspace, "unvalidated-constraint") == []


def test_invalid_index_is_not_taken_for_one_being_built_because_of_a_vacuum(
    workspace: Workspace, database: TestDatabase
) -> None:
    database.query("create table orders (id int); insert into orders values (1), (1)")
    with contextlib.suppress(psycopg.errors.UniqueViolation):
        database.query("create unique index concurrently orders_id on orders (id)")
    # The lock that vacuum, analyze and many an ALTER TABLE take.
    with client(database.conninfo.dsn, "begin", "lock table orders in share update exclusive mode"):
        assert only(workspace, "invalid-index")["severity"] == "high"


@pytest.mark.parametrize(
    "statement",
    [
        "create index concurrently orders_new on orders (id)",
        "reindex index concurrently orders_id",
        "drop index concurrently orders_id",
    ],
)
def test_index_that_is_being_built_is_no_trouble(
    workspace: Workspace, database: TestDatabase, statement: str
) -> None:
    database.query("create table orders (id int); create index orders_id on orders (id)")
    with (
        client(database.conninfo.dsn, "begin", "insert into orders values (1)") as writer,
        client(database.conninfo.dsn) as builder,
    ):
        pid = builder.info.backend_pid
        building = threading.Thread(target=lambda: builder.execute(statement.encode()))
        building.start()
        until(lambda: database.query("select from pg_index where not indisvalid"))
        found = only(workspace, "invalid-index")
        writer.execute("rollback")
        building.join()
    assert found["severity"] == "info"
    assert f"perhaps pid {pid} is just building it" in found["message"]


def test_pending_detach_is_found(workspace: Workspace, database: TestDatabase) -> None:
    database.query(
        "create table events (at int) partition by range (at);"
        "create table events_1 partition of events for values from (0) to (10)"
    )
    with (
        client(database.conninfo.dsn, "begin", "select * from events"),
        client(database.conninfo.dsn, "set statement_timeout = '300ms'") as impatient,
        contextlib.suppress(psycopg.errors.QueryCanceled),
    ):
        impatient.execute("alter table events detach partition events_1 concurrently")

    found = only(workspace, "pending-detach")

    assert (found["severity"], found["object"]) == ("high", "public.events_1")
    database.query(found["hint"])
    assert findings(workspace, "pending-detach") == []


def test_who_blocks_and_who_waits_is_named(
    workspace: Workspace, database: TestDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("smeta_declare.diagnosis.OPEN_FOR", 0)
    database.query("create table orders (id int)")
    with (
        client(database.conninfo.dsn, "begin", "lock table orders") as holder,
        client(database.conninfo.dsn) as waiter,
    ):
        waiting = threading.Thread(target=lambda: waiter.execute("select * from orders"))
        waiting.start()
        until(lambda: database.query("select from pg_locks where not granted"))

        blocked = only(workspace, "blocked-session")
        (idle,) = findings(workspace, "idle-in-transaction")
        (long,) = findings(workspace, "long-transaction")

        holder.execute("rollback")
        waiting.join()
        assert f"pid {waiter.info.backend_pid}, user smeta_owner, shop waits" in blocked["message"]
        assert f"lock of public.orders, held by pid {holder.info.backend_pid}" in blocked["message"]
        assert blocked["message"].endswith("user smeta_owner, shop, idle in transaction for 0 s")
        assert blocked["hint"].startswith(f"look at pid {holder.info.backend_pid} first")
        assert long["hint"] == f"it waits itself: look at pid {holder.info.backend_pid} first"
        assert idle["object"] == f"pid {holder.info.backend_pid}"
        assert "shop does nothing for 0 s in a transaction open for 0 s" in idle["message"]
    assert findings(workspace, "blocked-session") + findings(workspace, "idle-in-transaction") == []


@PG18
def test_holder_of_a_strong_lock_is_named_however_young_it_is(
    workspace: Workspace, database: TestDatabase
) -> None:
    database.query("create table orders (id int); create table parts (id int)")
    with client(database.conninfo.dsn, "begin", "lock table orders, parts") as holder:
        held = only(workspace, "strong-lock")
        assert (held["severity"], held["object"]) == ("medium", f"pid {holder.info.backend_pid}")
        assert (
            "shop holds ACCESS EXCLUSIVE on public.orders, public.parts, in a transaction" in held["message"]
        )
        holder.execute("rollback")
        holder.execute("begin")
        holder.execute("create table new (id int)")
        assert findings(workspace, "strong-lock") == []


@PG18
def test_history_that_somebody_locks_is_one_finding_and_the_rest_goes_on(
    workspace: Workspace, database: TestDatabase
) -> None:
    workspace.migration("1_orders", "create table orders (id int);", "drop table orders;")
    assert workspace.smeta("apply", "--env", "test").code == 0
    database.query("alter table orders add check (id > 0) not valid")
    with client(database.conninfo.dsn, "begin", "lock table public.schema_migrations"):
        hidden = only(workspace, "not-visible")
        assert hidden["message"].startswith("not visible: history: a lock is in the way")
        assert only(workspace, "unvalidated-constraint")
        assert "public.schema_migrations" in only(workspace, "strong-lock")["message"]
    assert findings(workspace, "not-visible") == []


@PG18
def test_locks_that_may_not_be_seen_are_said_once_with_the_grant(
    workspace: Workspace, database: TestDatabase
) -> None:
    database.query_as_admin("revoke select on pg_catalog.pg_locks from public")

    hidden = only(workspace, "not-visible")

    assert "runner lock, blocked sessions, strong locks, invalid indexes: no permission" in hidden["message"]
    database.query_as_admin(hidden["hint"].removeprefix("let a superuser run: "))
    assert findings(workspace, "not-visible") == []


@PG18
def test_sessions_of_others_are_said_to_be_hidden_until_we_may_see_them(
    workspace: Workspace, database: TestDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("smeta_declare.diagnosis.OPEN_FOR", 0)
    with client(database.admin, "begin", "select 1"):
        hidden = only(workspace, "not-visible")
        assert (hidden["severity"], findings(workspace, "idle-in-transaction")) == ("info", [])
        workspace.environ["TRIAL_URL"] = database.admin
        assert findings(workspace, "not-visible") == []
        assert len(findings(workspace, "idle-in-transaction")) == 1


@PG18
def test_missing_rights_come_with_the_grants_that_mend_them(
    workspace: Workspace, database: TestDatabase
) -> None:
    make_user(database, "doctor_stranger")
    database.query_as_admin("revoke smeta_owner from doctor_stranger")
    url = database.server.conninfo(database.name, "doctor_stranger").dsn
    workspace.environ["TRIAL_URL"] = f"{url}&password=pooled-s3cret"

    found = findings(workspace, "missing-privileges")

    assert [f["object"] for f in found] == [database.name, "public"]
    for finding in found:
        database.query_as_admin(finding["hint"].removeprefix("let its owner run: "))
    assert findings(workspace, "missing-privileges") == []
    workspace.migration("1_orders", "create table orders (id int);", "drop table orders;")
    assert workspace.smeta("apply", "--env", "test").code == 0
    assert findings(workspace, "missing-privileges") == []
    set_up(workspace, "role: smeta_owner")
    assert "may not become smeta_owner" in only(workspace, "role-unusable")["message"]
    set_up(workspace, "role: doctor_nobody")
    assert "there is no role doctor_nobody" in only(workspace, "role-unusable")["message"]


def test_history_that_is_not_ours_or_not_readable_is_found(
    workspace: Workspace, database: TestDatabase
) -> None:
    database.query("create table public.schema_migrations (version text)")
    assert only(workspace, "history-foreign")["severity"] == "high"
    database.query("drop table public.schema_migrations")
    workspace.migration("1_orders", "create table orders (id int);", "drop table orders;")
    assert workspace.smeta("apply", "--env", "test").code == 0
    database.query("revoke all on smeta.step from smeta_owner")
    assert {f["object"] for f in findings(workspace, "missing-privileges")} >= {"smeta.step"}


def test_half_done_run_is_found_with_the_command_that_finishes_it(
    workspace: Workspace, database: TestDatabase
) -> None:
    database.query("create table orders (id int); insert into orders values (1), (1)")
    workspace.migration(
        "1_parts",
        "create table parts (id int);\ncreate unique index concurrently orders_id on orders (id);",
        "drop table parts;",
    )
    stopped = workspace.smeta("apply", "--env", "test")
    assert stopped.code == 5, stopped.err

    half, run = only(workspace, "half-done-migration"), only(workspace, "open-run")
    index = only(workspace, "invalid-index")
    assert index["message"].endswith("; 1_parts left it half done")
    assert index["hint"] == "`smeta apply --env test` takes it away and goes on from there"

    assert (half["severity"], half["object"]) == ("high", "1_parts")
    assert half["hint"] == "smeta apply --env test"
    assert "(apply)" in run["message"]
    database.query("truncate orders")
    assert workspace.smeta(*half["hint"].split()[1:]).code == 0
    assert findings(workspace, "half-done-migration") + findings(workspace, "open-run") == []


def test_holder_of_the_runners_lock_is_named(workspace: Workspace, database: TestDatabase) -> None:
    reader = _reader(workspace)
    with reader.connected() as journal:
        journal.lock(0, lambda _holder, _waited: None)
        found = only(workspace, "runner-lock")
        assert (found["severity"], found["object"]) == ("info", f"pid {journal.session.pid}")
    assert findings(workspace, "runner-lock") == []


@PG18
def test_what_holds_back_vacuum_is_found(tmp_path: Path, server: TestServer) -> None:
    """On a server of its own: it must know prepared transactions and slots, and be short of transaction numbers."""
    assert server.binaries is not None
    with Server.scratch(server.binaries, parent=tmp_path) as own:
        admin = own.conninfo("postgres", SUPERUSER).dsn
        with client(admin) as connection:
            for setting in (
                "max_prepared_transactions = 2",
                "wal_level = logical",
                "max_wal_senders = 2",
                "autovacuum_freeze_max_age = 100000",
            ):
                connection.execute(f"alter system set {setting}".encode())
        own.stop()
        own.start()
        workspace = Workspace.at(tmp_path / "trial")
        workspace.environ["TRIAL_URL"] = admin
        assert findings(workspace, "wraparound") == []
        with client(admin) as connection:
            # In this order: a new slot waits for transactions that are open.
            connection.execute("select pg_create_logical_replication_slot('abandoned'::text, 'pgoutput')")
            connection.execute("begin")
            connection.execute("create table t (id int)")
            connection.execute("prepare transaction 'it''s'")
            connection.execute(
                "do $$ begin for i in 1..95000 loop perform pg_current_xact_id(); commit; end loop; end $$"
            )

        prepared, slot = only(workspace, "prepared-transaction"), only(workspace, "inactive-slot")

        assert (prepared["object"], slot["object"]) == ("it's", "abandoned")
        assert "rollback prepared 'it''s'" in prepared["hint"]
        assert "select pg_drop_replication_slot('abandoned')" in slot["hint"]
        assert "postgres" in {f["object"] for f in findings(workspace, "wraparound")}
        with client(admin, "rollback prepared 'it''s'", slot["hint"].partition(": ")[2]):
            assert findings(workspace, "prepared-transaction") + findings(workspace, "inactive-slot") == []


@PG18
def test_settings_of_the_database_are_told(workspace: Workspace, database: TestDatabase) -> None:
    database.query(f"alter database {database.name} set lock_timeout = '5s'")
    database.query_as_admin(f"alter database {database.name} set track_activities = off")
    database.query(f"alter database {database.name} set default_transaction_read_only = on")

    told = {f["object"]: f["severity"] for f in findings(workspace)}

    assert told["lock_timeout"] == "low"
    assert told["track_activities"] == "medium"
    assert told["default_transaction_read_only"] == "high"


@PG18
def test_backup_that_row_security_would_spoil_is_found(workspace: Workspace, database: TestDatabase) -> None:
    database.query(
        "create table orders (id int); alter table orders enable row level security;"
        "alter table orders force row level security"
    )
    set_up(workspace, "backup: defs", more=FULL)
    assert findings(workspace, "backup-row-security") == []  # definitions have no rows
    set_up(workspace, "backup: kept", more=FULL)

    found = only(workspace, "backup-row-security")

    assert (found["severity"], found["object"]) == ("high", "public.orders")
    assert workspace.smeta("backup", "create", "--env", "test").code == 1  # and so it is
    database.query("alter table orders no force row level security")
    assert findings(workspace, "backup-row-security") == []
    assert workspace.smeta("backup", "create", "--env", "test").code == 0
    database.query_as_admin("create table secret (id int)")
    assert "may not read public.secret" in only(workspace, "backup-privileges")["message"]


@PG18
def test_missing_pg_dump_and_clock_are_told(workspace: Workspace) -> None:
    set_up(workspace, "backup: defs", more=FULL)
    workspace.environ["SMETA_PG_DUMP"] = "/bin/false"
    assert only(workspace, "pg-dump-missing")["severity"] == "high"
    set_up(workspace, more=FULL)
    assert only(workspace, "pg-dump-missing")["severity"] == "low"

    late = examine(_reader(workspace), clock=lambda: time.time() - 60)

    assert [f.severity for f in late.findings if f.code == "clock-difference"] == ["medium"]
    assert findings(workspace, "clock-difference") == []


@PG18
@pytest.mark.needs("pgbouncer")
def test_pooler_is_told_and_direct_address_is_tried(workspace: Workspace, database: TestDatabase) -> None:
    with pgbouncer(database, "transaction") as pooler:
        workspace.environ |= {
            "TRIAL_URL": pooler.url,
            "DIRECT": pooler.direct,
            "NOWHERE": "host=/nonexistent",
        }
        alone = only(workspace, "pooler")
        assert (alone["severity"], len(findings(workspace, "no-history"))) == ("high", 1)
        assert "nothing runs through it" in alone["message"]
        set_up(workspace, "direct: ${DIRECT}")
        assert only(workspace, "pooler")["severity"] == "info"
        set_up(workspace, "direct: ${TRIAL_URL}")
        assert [f["severity"] for f in findings(workspace, "pooler")] == ["high", "high"]
        set_up(workspace, "direct: ${NOWHERE}")
        assert only(workspace, "direct-unreachable")["severity"] == "high"
        with contextlib.closing(pooler.connect()) as application:
            changed = application.execute("select name from pg_settings where source = 'session'").fetchall()
            assert {name for (name,) in changed} <= {"application_name", "client_encoding"}


@PG18
@pytest.mark.needs("pgbouncer")
@pytest.mark.parametrize(
    ("mode", "severity"), [("session", "low"), ("statement", "high")], ids=["session", "statement"]
)
def test_other_modes_are_told(workspace: Workspace, database: TestDatabase, mode: str, severity: str) -> None:
    with pgbouncer(database, mode) as pooler:
        workspace.environ["TRIAL_URL"] = pooler.url
        found = only(workspace, "pooler")
        assert (found["severity"], f"({mode} mode)" in found["message"]) == (severity, True)
        assert bool(findings(workspace, "not-visible")) == (mode == "statement")  # the history
        set_up(workspace, "backup: kept", more=FULL)
        assert only(workspace, "pooler")["severity"] == "high"


def _reader(workspace: Workspace) -> Any:
    app = App(
        manifest_option=str(workspace.manifest),
        log_option=None,
        environ=dict(workspace.environ),
        interactive=False,
        verbose=False,
        quiet=True,
    )
    return app.reader(app.resolve("test"))
