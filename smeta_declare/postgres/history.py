"""The answers of `history.sql` as the history that a plan starts from."""

from __future__ import annotations

from dataclasses import replace

from smeta_declare import __version__
from smeta_declare.errors import Refused
from smeta_declare.postgres.connection import Answer, Rows
from smeta_declare.run import (
    AppliedMigration,
    Direction,
    History,
    KeptRollback,
    OpenRun,
    PartialMigration,
    Progress,
    Started,
)

FORMAT = 4  # of the journal


class ForeignHistory(Refused):
    """A table of the history's name that is not ours."""

    code = "history-foreign"


class NewerJournal(Refused):
    """The journal was written by a newer smeta."""

    code = "journal-newer"


def with_progress(history: History, rows: Rows) -> History:
    """The history with how far its begun backfills are, from the answer of `backfill_progress.sql`."""
    known = {
        tuple(place): Progress(digest=digest, passed=passed, lower=lower, upper=upper, rows=changed)
        for *place, digest, passed, lower, upper, changed in rows
    }

    def looked_up(half: PartialMigration) -> PartialMigration:
        started = {
            position: replace(begun, progress=known.get((half.version, half.direction, position, half.round)))
            for position, begun in half.started.items()
        }
        return replace(half, started=started)

    return replace(history, partial=tuple(looked_up(half) for half in history.partial))


def history_of(answers: list[Answer]) -> History:
    """The history from the answers of `history.sql`: ids, rows, steps by round, open runs, settings of last runs."""
    ids, rows, steps, runs, settings = (answer.rows for answer in answers)
    if not ids:
        raise ForeignHistory(
            "the journal is empty: its row in `history` is gone", hint="restore it from a backup"
        )
    if ids[0][1] < 1:
        raise ForeignHistory(
            f"the journal has format {ids[0][1]}, which no smeta writes", hint="restore it from a backup"
        )
    if ids[0][1] > FORMAT:
        raise NewerJournal(
            f"the journal has format {ids[0][1]}, this smeta {__version__} knows {FORMAT}",
            hint="use the newer smeta that wrote it",
        )
    present = {row[0] for row in rows}
    rounds: dict[tuple[str, Direction], int] = {}
    half: dict[str, PartialMigration] = {}
    kept_texts = {}
    last_finished: dict[str, Direction | None] = {}  # the steps come in the order of time
    for version, direction, round, count, finished, done, started, kept in steps:
        if (before := half.pop(version, None)) and before.direction != direction:
            rounds[version, before.direction] = before.round + 1  # half applied, and rolled back since
        if finished == count:
            rounds[version, direction] = round + 1
            last_finished[version] = direction
            continue
        last_finished[version] = None
        finished_positions = {int(position): digest for position, digest in (done or {}).items()}
        begun = {
            int(position): Started(digest=row["digest"], kept=row["kept"] or {})
            for position, row in (started or {}).items()
            if int(position) not in finished_positions
        }
        half[version] = PartialMigration(
            version=version,
            direction=direction,
            round=round,
            steps=count,
            done=finished_positions,
            started=begun,
        )
        kept = kept or next((s.kept["rollback"] for s in begun.values() if "rollback" in s.kept), None)
        if kept:
            kept_texts[version] = KeptRollback(**{**kept, "secrets": tuple(kept["secrets"])})
    return History(
        id=ids[0][0],
        last_number=rows[-1][13] if rows else 0,
        applied=tuple(
            AppliedMigration(
                version=row[0],
                name=row[1],
                description=row[2],
                applied_at=row[3],
                applied_by=row[4],
                execution_time_ms=row[5],
                checksum=row[6],
                meaning=row[7],
                inputs=row[8],
                forward_sql=row[9],
                rollback_sql=row[10],
                validation_sql=row[11],
                details_json=row[12],
            )
            for row in rows
        ),
        rounds=rounds,
        partial=tuple(half.values()),
        open_runs=tuple(
            OpenRun(
                id=id,
                direction=direction,
                request=request,
                versions=tuple(versions),
                started_at=at,
                started_by=by,
                plan=plan,
                saved=saved,
            )
            for id, direction, request, versions, at, by, plan, saved in runs
        ),
        rollback_texts=kept_texts,
        erased=tuple(
            version
            for version, direction in last_finished.items()
            if direction == "forward" and version not in present
        ),
        settings={environment: said for environment, said in settings if said},
        unjournaled=tuple(
            f"{row[0]} as applied, and {_unknown(half.get(row[0]))}"
            for row in rows
            if (row[0], "forward") not in rounds
            or ((begun_again := half.get(row[0])) and begun_again.direction == "forward")
        ),
    )


def _unknown(half: PartialMigration | None) -> str:
    """What the journal does not know of an applied migration."""
    if half is None or half.direction != "forward" or not half.done:
        return "no step of it is known"
    missing = [str(position + 1) for position in range(half.steps) if position not in half.done]
    steps = "step" if len(missing) == 1 else "steps"
    return f"{steps} {', '.join(missing)} of {half.steps} {'is' if len(missing) == 1 else 'are'} not known"
