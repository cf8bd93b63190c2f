"""Validations and checks asked of a database, so that the answer cannot be a side effect or a filtered one."""

from __future__ import annotations

from collections.abc import Mapping

from smeta_declare.diagnostics import excerpt
from smeta_declare.failures import ValidationFailed
from smeta_declare.plan import Question
from smeta_declare.postgres.connection import ServerError, Session
from smeta_declare.secrets import sendable


def ask(session: Session, question: Question, secrets: Mapping[str, str]) -> None:
    """Ask a validation or check in the open transaction and raise ValidationFailed if the answer is wrong.

    A lock or a time-out that is in the way is no answer, and stays the ServerError that it is.

    In a savepoint, read only and with `row_security = off`, so that PostgreSQL errors instead of filtering.
    https://www.postgresql.org/docs/current/runtime-config-client.html#GUC-ROW-SECURITY
    """
    if missing := {s.name for s in question.statement.secrets if secrets.get(s.name) is None}:
        raise ValidationFailed(
            f"{question.name}: no value for {', '.join(sorted(missing))}",
            location=question.location,
            hint="set the environment variable: the history only names it",
        )
    session.run(
        "savepoint smeta_question; set local transaction_read_only = on; set local row_security = off;"
        "set local datestyle = 'ISO, YMD'"
    )
    ready = sendable(question.statement, secrets, session.literal)
    try:
        answer = session.run(ready.text)[0]
    except ServerError as error:
        if error.lock_not_available or error.timed_out:
            raise
        secret = bool(question.statement.secrets)
        raise ValidationFailed(
            f"{question.name}: {'the server refuses the query' if secret else excerpt(error.message)}",
            location=question.declared_at or ready.locate(error.position),
            detail=(
                *(() if secret else map(excerpt, error.detail)),
                f"query: {ready.shown(error.position)}",
                f"sqlstate: {error.sqlstate}",
            ),
            hint="a validation reads only, as the owner, and may not be filtered by row security"
            if error.sqlstate in ("25006", "42501")
            else "correct the query",
        ) from error
    session.run("rollback to savepoint smeta_question; release savepoint smeta_question")
    if why := question.expect.failure(answer.columns, answer.rows):
        raise ValidationFailed(
            f"{question.name}: {why}",
            location=question.location,
            detail=(f"query: {ready.shown()}",),
            hint="the migration did not do what its validation says; correct one of the two",
        )
