"""A plan as one comment of a pull request: the same bytes for the same plan, never longer than a comment may be."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from smeta_declare.cli.plan_view import header, losses, migration_lines, plan_text, summary, trees
from smeta_declare.diagram import mermaid

LONGEST = 65_536  # characters of a comment on GitHub
_FENCE = "`" * 4


def plan_markdown(document: Mapping[str, Any], *, longest: int = LONGEST) -> str:
    """The plan: what a reviewer looks at first, then tables as a diagram and every statement, folded.

    Where it gets too long, the end of the statements is cut; a diagram that takes a tenth of the room is left out.
    """
    decision = document["decision"]
    name = f"{decision['project']}/{decision['environment']}"
    kind = "offline" if "since" in document else "plan"
    head = "\n".join(
        [
            f"<!-- smeta-{kind} {name} -->",  # by which the next comment takes the place of this one
            f"### smeta plan: {_plain(summary(decision, document['facts'].get('address', '')))}",
            "",
            "| | |",
            "|---|---|",
            *(f"| {title} | {_plain(value)} |" for title, value in header(document)),
            "",
            *_lost(losses(document)),
            *_findings(document["facts"]["findings"]),
            *(f"- `{line}`" for line in migration_lines(document)),
            "",
            "",
        ]
    )
    drawn = _diagram(decision)
    head += drawn if len(drawn) <= longest // 10 else ""
    whole = plan_text(document)
    fence = _fence(whole)
    opening = f"<details><summary>Every statement, in its transaction</summary>\n\n{fence}sql\n"
    closing = f"\n{fence}\n\n</details>\n"
    note = f"\n… cut here: {{}} more lines; {_whole(document)}"
    body = opening + whole + closing
    if len(head) + len(body) <= longest:
        return head + body
    room = longest - len(head) - len(opening) - len(closing) - len(note) - 8
    if room < 0:
        cut = head[: longest - len(note) - 8]
        return cut + note.format(len(head[len(cut) :].splitlines()) + len(whole.splitlines())) + "\n"
    kept = whole[:room].rpartition("\n")[0]
    left = len(whole.splitlines()) - len(kept.splitlines())
    return head + opening + kept + note.format(left) + closing


def _whole(document: Mapping[str, Any]) -> str:
    if "since" in document:
        return "the same command with `--format human` shows all of it"
    return f"`smeta show FILE` shows plan {document['id'][:12]} whole"


def _diagram(decision: Mapping[str, Any]) -> str:
    source = mermaid(trees(decision))
    title = "Tables added or altered, and their foreign keys"
    return (
        f"<details><summary>{title}</summary>\n\n```mermaid\n{source}\n```\n\n</details>\n\n"
        if source
        else ""
    )


def _lost(losses: list[str]) -> Iterator[str]:
    yield from (f"- **destroys** {_plain(what)}" for what in losses)
    if losses:
        yield ""


def _findings(findings: list[dict[str, Any]]) -> Iterator[str]:
    for finding in findings:
        yield f"- **{finding['severity']}** `{finding['code']}` {_plain(finding['message'])}"
    if findings:
        yield ""


def _fence(text: str) -> str:
    """Longer than any run of backticks inside: then none of them ends the block."""
    longest = run = 0
    for character in text:
        run = run + 1 if character == "`" else 0
        longest = max(longest, run)
    return "`" * max(len(_FENCE), longest + 1)


def _plain(text: str) -> str:
    """Text that Markdown and HTML leave as it is."""
    text = " ".join(text.split())
    for mark, instead in (("&", "&amp;"), ("<", "&lt;"), (">", "&gt;")):
        text = text.replace(mark, instead)
    return "".join("\\" + c if c in "\\`*_[]|#@" else c for c in text)
