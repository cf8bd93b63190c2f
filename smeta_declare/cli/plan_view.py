"""A plan for people, from its published form: a summary line, then every step with its statements in their order."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

from smeta_declare.effects import strongest_lock
from smeta_declare.inheritance import duration_text
from smeta_declare.parser import shallow
from smeta_declare.plan import CountedLoss
from smeta_declare.summary import summarised

Json = Mapping[str, Any]


def summary(decision: Json, address: str) -> str:
    """One line: how many go which way, in how many transactions."""
    if not decision["migrations"]:
        return f"{decision['environment']}: nothing to do"
    verb = "apply" if decision["direction"] == "forward" else "roll back"
    kinds = Counter(step["kind"] for step in decision["steps"])
    parts = [f"{len(decision['migrations'])} to {verb}", counted(kinds["transaction"], "transaction")]
    if kinds["backfill"]:
        parts.append(f"{counted(kinds['backfill'], 'statement')} in batches")
    if kinds["autocommit"]:
        parts.append(f"{counted(kinds['autocommit'], 'statement')} outside of any")
    if oneway := sum(not m["reversible"] for m in decision["migrations"]):
        parts.append(f"{oneway} without a way back")
    if "target" not in decision:  # made without a database
        return f"{decision['environment']}: {', '.join(parts)}"
    database = decision["target"]["database"]
    return f"{decision['environment']}, database {database} at {address}: {', '.join(parts)}"


def counted(number: int, noun: str) -> str:
    """`1 statement`, `2 statements`."""
    return f"{number} {noun}" + ("" if number == 1 else "s")


def header(document: Json) -> list[tuple[str, str]]:
    """What a person checks first: where it goes, as whom, and which plan it is."""
    decision = document["decision"]
    environment = ("environment", f"{decision['environment']} (project {decision['project']})")
    if since := document.get("since"):
        return [environment, ("since", f"{since['revision']} (commit {since['commit'][:12]})")]
    target = decision["target"]
    return [
        environment,
        (
            "database",
            f"{target['database']}, PostgreSQL {target['server_major']}, as {decision['role'] or target['user']}",
        ),
        ("address", document["facts"]["address"]),
        ("plan", document["id"][:12]),
    ]


def migration_lines(document: Json) -> list[str]:
    """Each migration with its sign and what to know about it."""
    resumes = document["facts"].get("resumes", {})
    return [_migration(m, resumes.get(m["version"])) for m in document["decision"]["migrations"]]


def _migration(migration: Json, resumes: str | None) -> str:
    notes = [
        *(["out of order"] if migration["out_of_order"] else []),
        *([] if migration["reversible"] else ["no rollback section"]),
        *([f"resumes: {resumes}"] if resumes else []),
    ]
    sign = "+" if migration["direction"] == "forward" else "-"
    return f"{sign} {migration['version']}" + (f"  [{'; '.join(notes)}]" if notes else "")


def plan_text(document: Json) -> str:
    """The whole plan."""
    decision, places = document["decision"], iter(document["facts"]["places"])
    lines = [
        *(f"{name:12} {value}" for name, value in header(document)),
        "",
        summary(decision, document["facts"].get("address", "")),
        *(
            ["goes on with the rollback that was interrupted, and no further"]
            if decision.get("continues")
            else []
        ),
        *(line for change in document.get("changes", ()) for line in _changed(change)),
        *(f"  ! destroys {what}" for what in losses(document)),
        *(f"  {line}" for line in migration_lines(document)),
    ]
    for step in decision["steps"]:
        lines += ["", *_step(step, places)]
    return "\n".join(lines)


def _changed(change: Json) -> list[str]:
    what = {"meaning": "the SQL means something else", "comments": "comments or layout only"}
    lines = [f"  ~ {change['version']}: {what.get(change['kind'], change['kind'] + ' section')}"]
    return [*lines, *(f"      {line}" for line in change["diff"])]


def _step(step: Json, places: Iterator[list[Any]]) -> list[str]:
    works = [line for work in step.get("works", ()) for line in _work(work, places)]
    match step["kind"]:
        case "backup":
            return [f"── backup: {step['policy']} ({step['scope']}, {step['format']}), before anything runs"]
        case "transaction":
            checks = [line for question in step["checks"] for line in _question("check", question, places)]
            return ["┌─ transaction", *(f"│  {line}" for line in (*works, *checks)), "└─ commit"]
        case "autocommit":
            return [f"── on its own: {step['reason']}", *(f"   {line}" for line in works)]
        case _:
            return [
                f"── in batches of {step['size']:,} rows of {step['table']}, "
                f"by {step['key']}: each is a transaction of its own",
                *(f"   {line}" for line in (*works, *_batches(step))),
            ]


def _batches(step: Json) -> list[str]:
    pauses = [f"pause of {duration_text(step['pause_ms'])} between two"] if step["pause_ms"] else []
    if step["max_lag_ms"] is not None:
        pauses.append(f"waits while a standby is more than {duration_text(step['max_lag_ms'])} behind")
    if step["until"]:
        origin = "the statement's own condition" if step["until_derived"] else "given"
        ends = f"only rows, and again until there is none, where {' '.join(step['until'].split())} ({origin})"
    else:
        ends = "one pass, up to the highest key at its start; each row once"
    return [f"  · {line}" for line in (ends, *pauses)]


def _work(work: Json, places: Iterator[list[Any]]) -> list[str]:
    part = f", step {work['position'] + 1} of {work['steps']}" if work["steps"] > 1 else ""
    arrow = "forward" if work["direction"] == "forward" else "back"
    lines = [f"{work['version']} ({arrow}{part})"]
    if work["forgets"]:
        lines.append("  · leaves the history")
    for statement in work["statements"]:
        lines += _statement(statement, places)
    for question in work["validations"]:
        lines += _question("validation", question, places)
    if work["records"]:
        lines.append("  · enters the history")
    return lines


def _statement(statement: Json, places: Iterator[list[Any]]) -> list[str]:
    file, line, _ = next(places)
    words = summarised(statement["text"], statement["kind"])
    lock = strongest_lock(*_tree(statement))
    told = f", {lock}" if lock else ""
    return [f"  -- {words}  ({file}:{line}{told})", *(f"  {line}" for line in statement["text"].splitlines())]


def _tree(statement: Json) -> tuple[str, Mapping[str, Any]]:
    return shallow(statement["text"])[0]


def trees(decision: Json) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Kind and parse tree of every statement of the migrations, in their order."""
    for step in decision["steps"]:
        for work in step.get("works", ()):
            yield from (_tree(statement) for statement in work["statements"])


def losses(document: Json) -> list[str]:
    """What the plan takes away for good, how many rows that was, and which migration does it."""
    return [f"{CountedLoss(**lost).words} ({lost['version']})" for lost in document["facts"]["losses"]]


def _question(kind: str, question: Json, places: Iterator[list[Any]]) -> list[str]:
    next(places)
    text = " ".join(question["statement"]["text"].split())
    shown = text if len(text) <= 100 else text[:99] + "…"
    return [f"  ? {kind}, expect {question['expect']}: {shown}"]


def plan_sql(document: Json) -> str:
    """The statements as SQL to read: where each transaction begins and ends, secrets as their names."""
    decision = document["decision"]
    lines = [f"-- {name}: {value}" for name, value in header(document)]
    for step in decision["steps"]:
        statements = [(work["version"], s) for work in step.get("works", ()) for s in work["statements"]]
        inside = step["kind"] == "transaction"
        lines += ["", f"-- {step['kind']} {step['id']}", *(["begin;"] if inside else [])]
        lines += [f"{statement['text']};  -- {version}" for version, statement in statements]
        lines += ["commit;"] if inside else []
    return "\n".join(lines)
