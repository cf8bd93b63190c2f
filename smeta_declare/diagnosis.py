"""What the answers of a database mean to somebody who wants to migrate it. Pure: rows in, findings out."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from smeta_declare.diagnostics import Diagnostic, Severity
from smeta_declare.errors import SmetaError
from smeta_declare.run import History, Named, run_ways
from smeta_declare.standalone import (
    BuildsIndex,
    DetachesPartition,
    DropsIndex,
    Effect,
    Reindexes,
    from_dict,
)

Rows = Sequence[tuple[Any, ...]]

OPEN_FOR = 30  # seconds from which on an open transaction is told
_LONG, _VERY_LONG = 600, 3_600
_IDLE_LONG = 600
_BLOCKED_LONG = 60
_CLOCK_SECONDS = 5.0
_WRAPAROUND_CLOSE, _WRAPAROUND_LATE = 0.9, 1.5  # of autovacuum's limit
_WRAPAROUND_STOP = 2_000_000_000  # the server stops giving numbers at about 2³¹
_SCARCE_BYTES = 100_000_000
_TIMEOUTS = {
    "lock_timeout",
    "statement_timeout",
    "idle_in_transaction_session_timeout",
    "transaction_timeout",
}


def of_error(error: SmetaError, *, object: str | None = None) -> Diagnostic:
    """An error that would stop `apply`, as a finding."""
    message = "; ".join((error.message, *error.detail))
    return Diagnostic(
        code=error.code, severity=Severity.HIGH, message=message, object=object, hint=error.hint
    )


def not_visible(questions: str, why: str, *, who: str = "", hint: str | None = None) -> Diagnostic:
    """What our role may not see is said, so that silence always means that all is well."""
    if denied := re.search(r"permission denied for (?:table|view) (\w+)", why):
        hint = f"let a superuser run: grant select on pg_catalog.{denied[1]} to {who}"
    return Diagnostic(
        code="not-visible",
        severity=Severity.INFO,
        message=f"not visible: {questions}: {why}",
        object=questions,
        hint=hint,
    )


def user(rows: Rows, role: str | None) -> Iterator[Diagnostic]:
    """Whether the connection's user can become `role:`."""
    session_user, there, may = rows[0]
    if role and not there:
        yield Diagnostic(
            code="role-unusable",
            severity=Severity.HIGH,
            message=f"there is no role {role}",
            object=role,
            hint="create it, or correct `role:`",
        )
    elif role and not may:
        yield Diagnostic(
            code="role-unusable",
            severity=Severity.HIGH,
            message=f"{session_user} may not become {role}",
            object=role,
            hint=f"grant {role} to {session_user}",
        )


def rights(rows: Rows, who: str) -> Iterator[Diagnostic]:
    """What smeta lacks for itself."""
    for thing, right, had in rows:
        if not had:
            yield Diagnostic(
                code="missing-privileges",
                severity=Severity.HIGH,
                message=f"{who} has no right to {right} on {thing}, which smeta needs for history and journal",
                object=thing.partition(" ")[2],
                hint=f"let its owner run: grant {right} on {thing} to {who}",
            )


def dump_rights(rows: Rows, role: str, policy: str, *, rows_too: bool) -> Iterator[Diagnostic]:
    """What a backup by this policy would fail on, or would not have in it."""
    bound = [name for name, hidden, _ in rows if hidden]
    unreadable = [name for name, _, denied in rows if denied]
    if bound and rows_too:
        yield Diagnostic(
            code="backup-row-security",
            severity=Severity.HIGH,
            message=f"backups by {policy} fail: row security binds {role} on {_listed(bound)}",
            object=bound[0],
            hint=f"let policy {policy} name a `role:` with BYPASSRLS that may read these tables",
        )
    if unreadable:
        yield Diagnostic(
            code="backup-privileges",
            severity=Severity.HIGH,
            message=f"backups by {policy} fail: {role} may not read {_listed(unreadable)}",
            object=unreadable[0],
            hint=f"let a superuser run: grant pg_read_all_data to {role}",
        )


def clock(difference: float, uncertainty: float) -> Iterator[Diagnostic]:
    """The server's clock against ours, in seconds; the question itself took twice the uncertainty."""
    if abs(difference) - uncertainty > _CLOCK_SECONDS:
        way = "ahead of" if difference > 0 else "behind"
        yield Diagnostic(
            code="clock-difference",
            severity=Severity.MEDIUM,
            message=f"the server's clock is {abs(difference):.0f} s {way} the one here",
            hint="times in migration.log and names of backups will not match the history: set the clocks",
        )


def transactions(rows: Rows) -> Iterator[Diagnostic]:
    """Who stands in the way of every lock and of every concurrent index build."""
    for pid, name, application, state, age, idle, blockers in rows:
        who = _who(pid, name, application)
        if idle is not None and idle >= OPEN_FOR:
            yield Diagnostic(
                code="idle-in-transaction",
                severity=Severity.HIGH if idle >= _IDLE_LONG else Severity.MEDIUM,
                message=f"{who} does nothing for {_span(idle)} in a transaction open for {_span(age)} ({state})",
                object=f"pid {pid}",
                hint=f"let it end; else: select pg_terminate_backend({pid})",
            )
        else:
            severity = Severity.LOW if age < _LONG else Severity.MEDIUM if age < _VERY_LONG else Severity.HIGH
            yield Diagnostic(
                code="long-transaction",
                severity=severity,
                message=f"{who} has a transaction open for {_span(age)} ({state})",
                object=f"pid {pid}",
                hint=f"it waits itself: look at {_pids(blockers)} first"
                if blockers
                else f"wait for it; else: select pg_cancel_backend({pid})",
            )


def hidden_sessions(rows: Rows, who: str) -> Iterator[Diagnostic]:
    """Sessions that may be anything."""
    if count := rows[0][0]:
        yield not_visible(
            "transactions",
            f"whether those of {_count(count, 'session')} of other roles in this database are old",
            hint=f"let a superuser run: grant pg_read_all_stats to {who}",
        )


def prepared_transactions(rows: Rows) -> Iterator[Diagnostic]:
    """Locks without a session."""
    for gid, owner, age, literal in rows:
        yield Diagnostic(
            code="prepared-transaction",
            severity=Severity.HIGH if age >= _LONG else Severity.MEDIUM,
            message=f"the prepared transaction {gid} of {owner} holds its locks for {_span(age)}",
            object=gid,
            hint=f"ask its transaction manager, then: commit prepared {literal}, or rollback prepared {literal}",
        )


def slots(rows: Rows) -> Iterator[Diagnostic]:
    """Replication that nobody follows any more."""
    for name, kind, age, literal in rows:
        yield Diagnostic(
            code="inactive-slot",
            severity=Severity.MEDIUM,
            message=f"nobody reads the {kind} replication slot {name}; it keeps dead rows of {age} transactions",
            object=name,
            hint=f"start its reader, or: select pg_drop_replication_slot({literal})",
        )


class Left(NamedTuple):
    """A statement of smeta that began, and of which nobody knows the end."""

    version: str
    effect: Effect
    before: tuple[int, ...]  # leftovers (OIDs) that were there when it began
    way: str  # the command that goes on from there


def left(found: History, environment: Named) -> tuple[Left, ...]:
    """What the journal has begun and not finished, outside of transactions."""
    return tuple(
        Left(
            partial.version,
            from_dict(dict(started.kept["effect"])),
            tuple(started.kept.get("before", ())),
            found.ways_on(partial, environment)[0],
        )
        for partial in found.partial
        for started in partial.started.values()
        if "effect" in started.kept
    )


def _means(written: str | None, name: str) -> bool:
    """Whether a name of a statement, with or without its schema, may be this one of the catalogue."""
    return written is not None and (name == written or name.endswith(f".{written}"))


def _left_index(one: Left, name: str, table: str, oid: int) -> bool:
    """Whether a statement of ours may have left this index."""
    match one.effect:
        case BuildsIndex():
            return _means(one.effect.index, name) and _means(one.effect.table, table)
        case DropsIndex():
            return _means(one.effect.index, name)
        case Reindexes(scope="index"):
            of = re.sub(r"_cc(new|old)[0-9]*(?=\"?$)", "", name)
            return oid not in one.before and _means(one.effect.name, of)
        case Reindexes(scope="table"):
            return oid not in one.before and _means(one.effect.name, table)
        case Reindexes():
            return oid not in one.before and bool(re.search(r"_cc(new|old)[0-9]*\"?$", name))
        case _:
            return False


def invalid_indexes(rows: Rows, begun: Sequence[Left] = ()) -> Iterator[Diagnostic]:
    """Indexes that a failed concurrent build left."""
    for name, table, partitioned, leftover, constraint, builder, oid in rows:
        severity, what = (
            Severity.HIGH,
            f"index {name} on {table} is invalid: it costs every write and serves no query",
        )
        hint = f"drop index concurrently {name}; then build it again, where it is wanted"
        if partitioned:
            severity, what = Severity.MEDIUM, f"index {name} on {table} lacks the index of a partition"
            hint = f"build it on each partition, then: alter index {name} attach partition …"
        elif leftover:
            what = f"index {name} on {table} was left by a reindex that failed: it costs every write"
            hint = f"drop index concurrently {name}"
        elif constraint:
            hint = f"reindex index concurrently {name}"
        if ours := next((one for one in begun if _left_index(one, name, table, oid)), None):
            what = f"{what}; {ours.version} left it half done"
            hint = f"`{ours.way}` takes it away and goes on from there"
        if builder is not None:
            severity, what = Severity.INFO, f"{what} (perhaps pid {builder} is just building it)"
            hint = f"wait until pid {builder} has ended and look again"
        yield Diagnostic(code="invalid-index", severity=severity, message=what, object=name, hint=hint)


def unvalidated_constraints(rows: Rows) -> Iterator[Diagnostic]:
    """Constraints that the old rows may break."""
    for name, table, statement in rows:
        yield Diagnostic(
            code="unvalidated-constraint",
            severity=Severity.LOW,
            message=f"constraint {name} of {table} was never checked for the rows that were there before",
            object=f"{table}.{name}",
            hint=statement,
        )


def pending_detaches(rows: Rows, begun: Sequence[Left] = ()) -> Iterator[Diagnostic]:
    """Partitions that are neither in nor out."""
    for partition, parent in rows:
        hint = f"alter table {parent} detach partition {partition} finalize"
        for one in begun:
            if isinstance(one.effect, DetachesPartition) and _means(one.effect.partition, partition):
                hint = f"`{one.way}` finishes it and goes on from there: {one.version} left it"
        yield Diagnostic(
            code="pending-detach",
            severity=Severity.HIGH,
            message=f"partition {partition} is half detached from {parent}",
            object=partition,
            hint=hint,
        )


def blocked_sessions(rows: Rows) -> Iterator[Diagnostic]:
    """Who waits now, and for whom."""
    waiting = {row[0]: row[6] for row in rows}
    for pid, name, application, seconds, relation, blockers, pids in rows:
        first = _roots(waiting, pids)
        what = f" of {relation}" if relation else ""
        yield Diagnostic(
            code="blocked-session",
            severity=Severity.HIGH if seconds >= _BLOCKED_LONG else Severity.MEDIUM,
            message=f"{_who(pid, name, application)} waits for {_span(seconds)} for a lock{what}, held by "
            + (blockers or "somebody who has just ended"),
            object=f"pid {pid}",
            hint=f"look at {_pids(first)} first: the others wait behind it" if first else "look again",
        )


def _roots(waiting: Mapping[int, Sequence[int]], pids: Sequence[int]) -> tuple[int, ...]:
    """Those at the head of the queue: they hold what others wait for, and wait for nobody."""
    seen: set[int] = set()
    found: set[int] = set()
    todo = list(pids)
    while todo:
        pid = todo.pop()
        if pid not in seen:
            seen.add(pid)
            todo += waiting.get(pid, ())
            if not waiting.get(pid):
                found.add(pid)
    return tuple(sorted(found))


def _pids(pids: Sequence[int]) -> str:
    return ", ".join(f"pid {pid}" if pid else "the prepared transaction" for pid in pids)


def strong_locks(rows: Rows) -> Iterator[Diagnostic]:
    """Whoever keeps even readers out, however young the transaction: no migration and no backup passes."""
    for pid, name, application, state, age, tables in rows:
        since = f", in a transaction open for {_span(age)} ({state})" if age is not None else ""
        yield Diagnostic(
            code="strong-lock",
            severity=Severity.HIGH if age is not None and age >= _BLOCKED_LONG else Severity.MEDIUM,
            message=f"{_who(pid, name, application)} holds ACCESS EXCLUSIVE on {_listed(tables)}{since}: nobody "
            "else reads or writes there, and no backup passes",
            object=f"pid {pid}",
            hint=f"let it end; else: select pg_terminate_backend({pid})",
        )


def runner(rows: Rows) -> Iterator[Diagnostic]:
    """A run in progress."""
    for pid, name, application in rows:
        yield Diagnostic(
            code="runner-lock",
            severity=Severity.INFO,
            message=f"{_who(pid, name, application)} holds the runner's lock: a run is in progress",
            object=f"pid {pid}",
            hint="another run waits for it as long as `locks.runner_wait` says",
        )


def history(found: History, environment: Named, *, running: bool) -> Iterator[Diagnostic]:
    """What was begun and not finished, and what to run."""
    for partial in found.partial:
        way = "forward" if partial.direction == "forward" else "back"
        ways = found.ways_on(partial, environment)
        yield Diagnostic(
            code="half-done-migration",
            severity=Severity.INFO if running else Severity.HIGH,
            message=f"{partial.version} is half done on its way {way}: {partial.words}",
            object=partial.version,
            hint="a run is in progress: let it finish"
            if running
            else (found.ways_text(partial, environment) if len(ways) > 1 else ways[0]),
        )
    for run in () if running else found.open_runs:
        yield Diagnostic(
            code="open-run",
            severity=Severity.HIGH if found.partial else Severity.MEDIUM,
            message=f"run {run.id} ({run.request}), begun {run.started_at:%Y-%m-%d %H:%M:%S%z} by {run.started_by}, "
            "stopped or died; nobody works on it",
            object=run.id,
            hint=run_ways(run, environment),
        )
    for version in found.erased:
        yield Diagnostic(
            code="row-erased",
            severity=Severity.HIGH,
            message=f"{version} was applied, as the journal has it, and its history row is gone",
            object=version,
            hint="put the row back from a backup before anything else is applied",
        )


def wraparound(rows: Rows) -> Iterator[Diagnostic]:
    """Databases that a vacuum nobody can put off is about to go through, table by table."""
    for name, age, limit, multixact_age, multixact_limit in rows:
        for what, found, most in (
            ("transaction numbers", age, limit),
            ("multixacts", multixact_age, multixact_limit),
        ):
            if found < _WRAPAROUND_CLOSE * most:
                continue
            severity = Severity.MEDIUM if found < _WRAPAROUND_LATE * most else Severity.HIGH
            yield Diagnostic(
                code="wraparound",
                severity=Severity.CRITICAL if found >= _WRAPAROUND_STOP else severity,
                message=f"database {name}: its oldest {what} are {found:,} old; from {most:,} on autovacuum "
                "goes through every table and yields to no migration",
                object=name,
                hint=f"run `vacuum (freeze)` in {name} at a quiet hour, before you migrate",
            )


def settings(rows: Rows) -> Iterator[Diagnostic]:
    """What a session here begins with that gets in the way."""
    for name, value in rows:
        if name == "track_activities" and value == "off":
            yield Diagnostic(
                code="setting",
                severity=Severity.MEDIUM,
                message="track_activities is off: nobody can say what a blocking session does, or since when",
                object=name,
                hint="let a superuser run: alter system reset track_activities; select pg_reload_conf()",
            )
        elif name == "default_transaction_read_only" and value == "on":
            yield Diagnostic(
                code="read-only-database",
                severity=Severity.HIGH,
                message="default_transaction_read_only is on: somebody closed this database or user to writing",
                object=name,
                hint="ask who did it, or reset it: alter database … reset default_transaction_read_only",
            )
        elif name in _TIMEOUTS and value not in ("0", None):
            yield Diagnostic(
                code="setting",
                severity=Severity.LOW,
                message=f"{name} is {value} ms for this user or database; smeta sets its own, what you run by hand "
                "is bound by it",
                object=name,
                hint=f"where a restore or an index build by hand stops: set {name} = 0",
            )


def disk(free: int, database_bytes: int | None, directory: str, *, full: bool) -> Iterator[Diagnostic]:
    """Whether a backup fits. A database with all its indexes is larger than its dump."""
    wanted = database_bytes if full and database_bytes else 0
    if free < max(_SCARCE_BYTES, wanted):
        size = f"; the database has {_bytes(wanted)}" if wanted else ""
        yield Diagnostic(
            code="backup-space",
            severity=Severity.HIGH if free < max(_SCARCE_BYTES, wanted // 4) else Severity.MEDIUM,
            message=f"{_bytes(free)} are free for backups in {directory}{size}",
            object=directory,
            hint="make room, or let `backups.directory` name another disk",
        )


def worst_first(findings: Iterable[Diagnostic]) -> tuple[Diagnostic, ...]:
    """In the order in which to look at them."""
    order = list(Severity)
    return tuple(sorted(findings, key=lambda f: order.index(f.severity)))


def fails(findings: Iterable[Diagnostic]) -> bool:
    """Whether a finding is high or worse."""
    return any(f.severity in (Severity.CRITICAL, Severity.HIGH) for f in findings)


def _who(pid: int, name: str | None, application: str | None) -> str:
    return f"pid {pid}, user {name or '?'}" + (f", {application}" if application else "")


def _span(seconds: int) -> str:
    if seconds < 120:
        return f"{seconds} s"
    return f"{seconds // 60} min" if seconds < 7_200 else f"{seconds // 3_600} h"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" + ("" if number == 1 else "s")


def _bytes(number: int) -> str:
    return f"{number / 1e9:.1f} GB" if number >= 1e9 else f"{number / 1e6:.0f} MB"


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(names[:3]) + more
