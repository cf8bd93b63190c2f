"""Where a case is played: a server with one template database for each scenario, and the verdict afterwards."""

from __future__ import annotations

import contextlib
import itertools
import os
import select
import signal
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psycopg
from psycopg import sql

from smeta_declare.postgres.binaries import find_binaries
from smeta_declare.postgres.server import OWNER, SUPERUSER, Server
from tests.chaos.cases import Case, Fault
from tests.chaos.proxy import TERMINATE, Link, Message, Moment, Proxy, Trap
from tests.chaos.scenarios import Scenario
from tests.waiting import until
from tests.workspace import Workspace

MANIFEST = """\
manifest: 1
project: chaos
defaults:
  backup: none
  timeouts: {{statement: 30s, connect: 2s}}
  locks: {{timeout: 200ms, retries: {{attempts: 4, backoff: 50ms, max_backoff: 200ms}}, runner_wait: 300ms}}
environments:
  test:
    database: ${{TRIAL_URL}}
    transaction: {transaction}
migrations:
  directory: migrations
  apply: [{versions}]
"""
_LIMIT = 40  # seconds that a command may take: none of them works for more than one
_REACTION = 0.4  # seconds in which a client that was sent a signal may ask the server to cancel
_QUIET = 10.0  # seconds in which the server processes of dead clients must be gone
RETRIES = 4
_WAITING = """\
select count(*) from pg_stat_activity where pid = %s and wait_event_type = 'Lock'
"""
# All that a schema dump would show of these projects, and whether indexes are valid.
_CATALOGUE = """\
with ours as (
    select c.oid, n.nspname || '.' || c.relname as name, c.relkind, c.relowner::regrole::text as owner
    from pg_class c join pg_namespace n on n.oid = c.relnamespace
    where n.nspname not in ('pg_catalog', 'information_schema') and n.nspname not like 'pg\\_t%'
)
select 'relation', name, relkind::text, owner, '' from ours
union all
select 'column', name, attname, format_type(atttypid, atttypmod), concat(attnotnull, pg_get_expr(adbin, adrelid))
from ours join pg_attribute a on attrelid = oid and attnum > 0 and not attisdropped
left join pg_attrdef d on adrelid = a.attrelid and adnum = attnum
union all
select 'constraint', name, conname, pg_get_constraintdef(c.oid), convalidated::text
from ours join pg_constraint c on conrelid = ours.oid
union all
select 'index', name, pg_get_indexdef(indexrelid), concat(indisvalid, indisready, indislive), indrelid::regclass::text
from ours join pg_index on indexrelid = oid
union all
select 'partition', name, inhparent::regclass::text, inhdetachpending::text, ''
from ours join pg_inherits on inhrelid = oid
union all
select 'view', name, pg_get_viewdef(oid), '', '' from ours where relkind = 'v'
order by 1, 2, 3, 4, 5
"""
_HISTORY = "select version, checksum, forward_sql, rollback_sql from schema_migrations order by id"
_DONE = """\
select version, direction, position, round, digest from smeta.step where state = 'done' order by 1, 2, 3, 4
"""
_OTHERS = """\
select pid, state, query from pg_stat_activity where datname = current_database() and pid <> pg_backend_pid()
"""

Rows = list[tuple[Any, ...]]


class Stage:
    """One server, with what the undisturbed runs sent and left behind."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.socket = server.socket
        self._numbers = itertools.count(1)
        self._undisturbed: dict[str, Undisturbed] = {}

    @property
    def admin(self) -> str:
        """The superuser's connection string of the database `postgres`."""
        return self.server.conninfo("postgres", SUPERUSER).dsn

    def run_admin(self, statement: sql.Composed | bytes) -> None:
        """Something that concerns the whole server."""
        with contextlib.closing(psycopg.connect(self.admin, autocommit=True)) as connection:
            connection.execute(statement)

    @contextlib.contextmanager
    def database(self, template: str) -> Iterator[str]:
        """A database cloned from another.

        With its files: the other strategy logs sequences as they stand, without the 32 numbers that nextval has
        logged ahead, and after a crash a clone's sequence gives numbers again that are in its tables (measured).
        """
        name = f"chaos_{os.getpid()}_{next(self._numbers)}"
        new, old, owner = sql.Identifier(name), sql.Identifier(template), sql.Identifier(OWNER)
        self.run_admin(
            sql.SQL("create database {} owner {} template {} strategy file_copy").format(new, owner, old)
        )
        try:
            yield name
        finally:
            self.run_admin(sql.SQL("drop database if exists {} with (force)").format(new))

    def undisturbed(self, scenario: Scenario, folder: Path) -> Undisturbed:
        """What the scenario sends and leaves where nothing happens; measured once."""
        if scenario.name not in self._undisturbed:
            self._undisturbed[scenario.name] = self._measure(scenario, folder)
        return self._undisturbed[scenario.name]

    def _measure(self, scenario: Scenario, folder: Path) -> Undisturbed:
        template = f"template_{os.getpid()}_{next(self._numbers)}"
        self.run_admin(
            sql.SQL("create database {} owner {} template template0").format(
                sql.Identifier(template), sql.Identifier(OWNER)
            )
        )
        direct = self.server.conninfo(template).dsn
        with contextlib.closing(psycopg.connect(direct, autocommit=True)) as connection:
            connection.execute(scenario.setup.encode())
        for number, arguments in enumerate(scenario.prepare):
            done = project(scenario, folder / f"prepare-{number}", direct).smeta(*arguments, "--env", "test")
            assert done.code == 0, done.err
        with self.database(template) as name, Proxy(self.socket) as proxy:
            begins = snapshot(self.server, name)
            work = project(scenario, folder / "undisturbed", self.through(proxy, name))
            done = work.smeta(*scenario.arguments, "--env", "test")
            assert done.code == 0, done.err
            sent = proxy.links[0].sent  # by a thread that may still have to read what was sent last
            until(lambda: sent[-1].kind == TERMINATE, what="the end of the first connection")
            return Undisturbed(
                template=template,
                messages=tuple(sent),
                begins=begins,
                ends=snapshot(self.server, name),
                files=files_of(work),
            )

    def through(self, proxy: Proxy, database: str) -> str:
        """The connection string of a database through a proxy."""
        return self.server.conninfo(database).dsn.replace(str(self.socket), str(proxy.directory))


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """What a database holds, as far as it may not depend on what went wrong on the way."""

    catalogue: Rows
    tables: dict[str, Rows]
    history: Rows
    done: Rows

    def difference(self, other: Snapshot) -> str:
        """In what this one differs, in few words; empty where it does not."""
        parts = []
        for name in ("catalogue", "tables", "history", "done"):
            mine, theirs = (Counter(_flat(getattr(s, name))) for s in (self, other))
            if mine != theirs:
                parts.append(f"{name}: too much {_shown(mine - theirs)}, missing {_shown(theirs - mine)}")
        return "; ".join(parts)


def _flat(rows: Rows | dict[str, Rows]) -> Rows:
    if isinstance(rows, dict):
        return [(name, *row) for name, each in rows.items() for row in each]
    return rows


def _shown(rows: Counter[tuple[Any, ...]]) -> list[str]:
    return [" ".join(str(value)[:60] for value in row) for row in rows.elements()][:4]


@dataclass(frozen=True, slots=True, kw_only=True)
class Undisturbed:
    """A scenario's run without any fault."""

    template: str
    messages: tuple[Message, ...]  # of the connection that works
    begins: Snapshot
    ends: Snapshot
    files: tuple[str, ...]


@dataclass(slots=True, kw_only=True)
class Report:
    """What a case did, and what is wrong about it."""

    case: Case
    point: str
    codes: list[int] = field(default_factory=list)
    complaints: list[str] = field(default_factory=list)
    told: list[str] = field(default_factory=list)  # the standard error of each command

    def __str__(self) -> str:
        lines = [
            f"case {self.case}, at {self.point}, exit codes {self.codes}",
            *(f"  - {c}" for c in self.complaints),
        ]
        for number, text in enumerate(self.told):
            lines += [f"  command {number + 1} said:", *(f"    {line}" for line in text.splitlines()[-14:])]
        return "\n".join(lines)


def project(scenario: Scenario, root: Path, dsn: str) -> Workspace:
    """The scenario's files."""
    work = Workspace.at(root)
    for script in scenario.scripts:
        work.migration(script.version, script.forward, script.rollback, script.validation)
    work.manifest.write_text(
        MANIFEST.format(transaction=scenario.transaction, versions=", ".join(work.versions))
    )
    work.environ["TRIAL_URL"] = dsn
    return work


def files_of(work: Workspace) -> tuple[str, ...]:
    """What lies in a project's directory."""
    return tuple(sorted(str(p.relative_to(work.root)) for p in work.root.rglob("*")))


def snapshot(server: Server, database: str) -> Snapshot:
    """Look at a database as the superuser."""
    with contextlib.closing(
        psycopg.connect(server.conninfo(database, SUPERUSER).dsn, autocommit=True)
    ) as connection:

        def ask(text: str) -> Rows:
            return connection.execute(text.encode()).fetchall()

        tables = {
            name: ask(f'select t::text from public."{name}" t order by 1')  # noqa: S608 # names of our own
            for (name,) in ask(
                "select relname from pg_class where relnamespace = 'public'::regnamespace"
                " and relkind = 'r' and relname <> 'schema_migrations' order by 1"
            )
        }
        known = ask("select to_regclass('smeta.step') is not null")[0][0]
        return Snapshot(
            catalogue=ask(_CATALOGUE),
            tables=tables,
            history=ask(_HISTORY) if known else [],
            done=ask(_DONE) if known else [],
        )


def play(stage: Stage, case: Case, folder: Path) -> Report:
    """Disturb a run, repeat the command until it is done, and judge what is there."""
    known = stage.undisturbed(case.scenario, folder)
    point = case.point(known.messages)
    report = Report(case=case, point=f"message {point.number} {point.kind} {point.text[:70]!r}")
    with stage.database(known.template) as name, Proxy(stage.socket) as proxy:
        work = project(case.scenario, folder / "work", stage.through(proxy, name))
        play = _Play(stage, case, proxy, name, work, report, known)
        play.disturb(point)
        play.converge()
        play.judge()
    return report


class _Play:
    def __init__(
        self,
        stage: Stage,
        case: Case,
        proxy: Proxy,
        database: str,
        work: Workspace,
        report: Report,
        known: Undisturbed,
    ) -> None:
        self.stage, self.case, self.proxy, self.database = stage, case, proxy, database
        self.work, self.report, self.known = work, report, known
        self.client: subprocess.Popen[str] | None = None
        self.started = threading.Event()
        self.blocker: psycopg.Connection[Any] | None = None

    def complain(self, text: str) -> None:
        self.report.complaints.append(text)

    @property
    def arguments(self) -> tuple[str, ...]:
        return (*self.case.scenario.arguments, "--env", "test")

    # the fault

    def disturb(self, point: Message) -> None:
        inside = self.case.moment is Moment.INSIDE
        self.proxy.trap = Trap(
            number=point.number,
            moment=self.case.moment,
            spring=self._spring(),
            prepare=self._block if inside else lambda: None,
            inside=self._wait_inside,
        )
        self.client = self.work.start(*self.arguments)
        self.started.set()
        try:
            _, told = self.client.communicate(timeout=_LIMIT)
        except subprocess.TimeoutExpired:
            self.client.kill()
            _, told = self.client.communicate()
            self.complain(f"the disturbed command hung for {_LIMIT} s")
        self.report.codes.append(self.client.returncode)
        self.report.told.append(told)
        if not self.proxy.sprung.wait(_LIMIT):
            self.complain("the fault never happened")
        if self.proxy.failure:
            self.complain(self.proxy.failure)
        if self.blocker:
            # A server process whose client is gone notices within 2 s; what it leaves is half of its work.
            if self.case.fault is not Fault.SWALLOW:
                self._until(lambda: not self._working(), 4.0)
            self.blocker.close()
        self._judge_code(self.client.returncode, told)

    def _spring(self) -> Callable[[Link], None]:
        match self.case.fault:
            case Fault.KILL:
                return self._kill
            case Fault.TERM:
                return lambda link: self._signal(link, signal.SIGTERM)
            case Fault.INT:
                return lambda link: self._signal(link, signal.SIGINT)
            case Fault.TERMINATE:
                return self._terminate
            case Fault.CUT:
                return Link.sever
            case Fault.SWALLOW:
                return Link.swallow
            case Fault.RESTART:
                return self._restart

    def _process(self) -> subprocess.Popen[str]:
        self.started.wait(_LIMIT)
        assert self.client is not None
        return self.client

    def _kill(self, link: Link) -> None:
        self._process().kill()
        link.sever()

    def _signal(self, link: Link, number: signal.Signals) -> None:
        """Send it, and give the client the time to ask for a cancellation while it waits for its answer."""
        self._process().send_signal(number)
        gone = select.poll()
        gone.register(link.client, select.POLLRDHUP)
        deadline = time.monotonic() + _REACTION
        while time.monotonic() < deadline and not gone.poll(0):
            if self.proxy.cancelled.wait(0.02):
                return

    def _terminate(self, link: Link) -> None:
        self._admin("select pg_terminate_backend(%s, 5000)", link.backend)
        link.server_gone.wait(_QUIET)

    def _restart(self, link: Link) -> None:
        self.stage.server.stop()  # immediate: a scratch server's way
        self.stage.server.start()
        link.server_gone.wait(_QUIET)

    def _block(self) -> None:
        dsn = self.stage.server.conninfo(self.database, SUPERUSER).dsn
        self.blocker = psycopg.connect(dsn)
        table = self.case.scenario.blocked
        assert table is not None
        self.blocker.execute(
            sql.SQL("lock table only {} in row exclusive mode").format(sql.Identifier(table))
        )

    def _wait_inside(self, link: Link) -> None:
        def waits() -> bool:
            return bool(self._admin(_WAITING, link.backend)[0][0])

        if not self._until(waits, _QUIET):
            self.proxy.failure = "the statement never waited for the blocker"

    # again, until it is done

    def converge(self) -> None:
        code = self.report.codes[-1]
        if code == -signal.SIGKILL and self.case.scenario.counted and self._closed():
            return  # `rollback 2` was done and said so in the journal: twice would be four
        for _ in range(RETRIES):
            if code == 0:
                return
            done = self.work.process(*self.arguments)
            code = done.code
            self.report.codes.append(code)
            self.report.told.append(done.err)
            if code in (4, 5):
                self.proxy.drop_orphans()
                self._until(lambda: not self._others(), _QUIET)
            elif code != 0:
                self.complain(f"the command run again ended with {code}")
                return
        if code != 0:
            self.complain(f"not done after {RETRIES} more tries")

    def _closed(self) -> bool:
        return self._ask("select outcome from smeta.run where direction = 'rollback'") == [("done",)]

    # the verdict

    def _judge_code(self, code: int, told: str) -> None:
        """Exit codes say the truth about what is in the database at that moment."""
        killed = self.case.fault is Fault.KILL
        if "Traceback (most recent call last)" in told or "error[bug]" in told:
            self.complain("a traceback or a bug was told")
        if killed and code == -signal.SIGKILL:
            return
        if code not in (0, 4, 5):
            self.complain(f"the disturbed command ended with {code}")
            return
        if code and "error[" not in told:
            self.complain(f"exit {code} without an error code in what was told")
        # What the server is still doing for a client that is gone may go either way: only settled states count.
        if self.case.fault is Fault.SWALLOW or not self._until(lambda: not self._others(), _QUIET):
            return
        now = snapshot(self.stage.server, self.database)
        ended, begun = now.done == self.known.ends.done, now.done == self.known.begins.done
        if code == 0 and not ended:
            self.complain("exit 0, and it is not done")
        if code == 4 and not (begun or ended):
            self.complain("exit 4 (nothing is half done), and a part is committed")

    def judge(self) -> None:
        self.proxy.drop_orphans()
        if not self._until(lambda: not self._others(), _QUIET):
            self.complain(f"sessions left: {self._others()}")
        now = snapshot(self.stage.server, self.database)
        if difference := now.difference(self.known.ends):
            self.complain(f"not what the undisturbed run leaves: {difference}")
        if open_runs := self._ask("select id::text, outcome from smeta.run where finished_at is null"):
            self.complain(f"open runs left: {open_runs}")
        if locks := self._ask(
            "select * from pg_locks where locktype = 'advisory' and database = "
            "(select oid from pg_database where datname = current_database())"
        ):
            self.complain(f"advisory locks left: {locks}")
        if (files := files_of(self.work)) != self.known.files:
            self.complain(f"files left: {sorted(set(files) ^ set(self.known.files))}")

    # asking

    def _others(self) -> Rows:
        return self._ask(_OTHERS)

    def _working(self) -> Rows:
        blocker = self.blocker.info.backend_pid if self.blocker and not self.blocker.closed else 0
        return [row for row in self._others() if row[0] != blocker]

    def _ask(self, text: str) -> Rows:
        dsn = self.stage.server.conninfo(self.database, SUPERUSER).dsn
        with contextlib.closing(psycopg.connect(dsn, autocommit=True)) as connection:
            return connection.execute(text.encode()).fetchall()

    def _admin(self, text: str, *parameters: object) -> Rows:
        with contextlib.closing(psycopg.connect(self.stage.admin, autocommit=True)) as connection:
            return connection.execute(text.encode(), parameters).fetchall()

    @staticmethod
    def _until(true: Callable[[], bool], limit: float) -> bool:
        deadline = time.monotonic() + limit
        while not true():
            if time.monotonic() > deadline:
                return False
            time.sleep(0.02)
        return True


def open_stage(stack: contextlib.ExitStack) -> Stage:
    """A stage on a server of its own, which ends with the stack."""
    server = stack.enter_context(Server.scratch(find_binaries(os.environ)))
    server.ensure_database("smeta")  # creates the owner role
    return Stage(server)
