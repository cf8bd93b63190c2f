"""What an environment demands of a plan, and which of its policies are looser than when it last ran. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from smeta_declare.diagnostics import Diagnostic, Severity
from smeta_declare.environment import Environment
from smeta_declare.errors import Refused
from smeta_declare.inheritance import duration_text
from smeta_declare.plan import Plan


class RequirementUnmet(Refused):
    """The plan does not carry what `require:` demands."""

    code = "require-unmet"


def unmet(environment: Environment, plan: Plan) -> Iterator[Diagnostic]:
    """What `require:` demands and the plan does not carry. A way back is asked only to exist where it is taken."""
    if "rollback" not in environment.require or plan.direction != "forward":
        return
    listed = {entry.version: entry.location for entry in environment.migrations}
    for migration in plan.migrations:
        if not migration.reversible and not migration.resumes:  # what is half done was let through before
            yield Diagnostic(
                code="require-unmet",
                severity=Severity.HIGH,
                message=f"{environment.name} requires a way back of every migration, and {migration.version} has none",
                object=migration.version,
                location=listed.get(migration.version),
                hint="write its rollback section; apply refuses the plan without it",
            )


def refuse_unmet(environment: Environment, plan: Plan) -> None:
    """Refuse a plan that does not carry what its environment requires."""
    for finding in unmet(environment, plan):
        raise RequirementUnmet(finding.message, location=finding.location, hint="write its rollback section")


def loosened(
    environment: str,
    before: Mapping[str, Any],
    now: Mapping[str, Any],
    *,
    hint: str = "nothing to do if this is meant; it is told until a run has begun with it",
) -> Iterator[Diagnostic]:
    """In words what `Environment.settings` let happen now that they did not before: when the environment last ran.

    Only of a protected environment, or one that was.
    """
    if not (before.get("protected") or now["protected"]):
        return
    for words in _loosened(before, now):
        yield Diagnostic(
            code="policy-loosened",
            severity=Severity.MEDIUM,
            message=f"policy of {environment}: {words}",
            object=environment,
            hint=hint,
        )


def _loosened(before: Mapping[str, Any], now: Mapping[str, Any]) -> Iterator[str]:
    if before.get("protected") and not now["protected"]:
        yield "it is not protected any more"
    if before.get("order") == "strict" and now["order"] != "strict":
        yield "migrations may run out of order, order was strict"
    for name in before.get("require", ()):
        if name not in now["require"]:
            yield f"requirement {name} is dropped"
    yield from _backup(before.get("backup"), now["backup"])
    for group, names in _UPPER_BOUNDS.items():
        for name in names:
            was, is_now = before.get(group, {}).get(name), now[group][name]
            if was is not None and is_now > was:
                yield f"{group}.{name.removesuffix('_ms')} is {duration_text(is_now)}, it was {duration_text(was)}"
    yield from _quiet(before.get("locks", {}).get("require_quiet_ms"), now["locks"]["require_quiet_ms"])
    for name in now["locks"]["terminate_blockers"]:
        if name not in before.get("locks", {}).get("terminate_blockers", ()):
            yield f"sessions of {name} may be ended when they block"
    asked = {check["name"]: check for check in now["checks"]}
    for check in before.get("checks", ()):
        if check["name"] not in asked:
            yield f"the check `{check['name']}` is not asked any more"
        elif asked[check["name"]] != check:
            yield f"the check `{check['name']}` asks something else"


# What bounds how long a migration may disturb; more of it is looser.
_UPPER_BOUNDS = {
    "timeouts": ("statement_ms", "idle_in_transaction_ms", "concurrent_ms"),
    "locks": ("timeout_ms", "hold_ms"),
}


def _backup(was: Mapping[str, Any] | None, now: Mapping[str, Any] | None) -> Iterator[str]:
    if was and not now:
        yield f"no backup is taken, it was {was['name']}"
    elif was and now and (was["scope"], now["scope"]) == ("full", "schema"):
        yield f"the backup {now['name']} keeps definitions only, {was['name']} kept the rows too"


def _quiet(was: int | None, now: int | None) -> Iterator[str]:
    if was is not None and now is None:
        yield f"transactions that hold a table are not waited for, they were from {duration_text(was)} on"
    elif was is not None and now is not None and now > was:
        yield f"transactions that hold a table may be {duration_text(now)} old, it was {duration_text(was)}"
