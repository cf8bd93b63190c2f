"""One mistake at a time: its code, its place, what is told and what to do."""

from __future__ import annotations

from pathlib import Path

import pytest

from smeta_declare.diagnostics import Diagnostic
from smeta_declare.errors import InvalidManifest
from smeta_declare.manifest import parse_manifest

FULL = (Path(__file__).parent / "full_manifest.yaml").read_text(encoding="utf-8")  # every key there is


def findings(text: str) -> tuple[Diagnostic, ...]:
    with pytest.raises(InvalidManifest) as caught:
        parse_manifest(text, file="smeta.yaml")
    return caught.value.findings


def only(text: str) -> tuple[str, int, int, str, str | None]:
    """The one finding of a text."""
    found = findings(text)
    assert len(found) == 1, [f.message for f in found]
    place = found[0].location
    assert place is not None
    return found[0].code, place.line, place.column, found[0].message, found[0].hint


def changed(old: str, new: str) -> str:
    assert FULL.count(old) == 1, old
    return FULL.replace(old, new)


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        (
            "  order: lenient",
            "  ordr: lenient",
            (
                "manifest-unknown-key",
                7,
                3,
                "`ordr` is no key of `defaults`; the keys are `transaction`, `order`, "
                "`timeouts`, `locks`, `backup`, `require`, `vars`, `role`",
                "did you mean `order`?",
            ),
        ),
        (
            "transaction: all",
            "transaction: al",
            (
                "manifest-value",
                6,
                16,
                "`defaults.transaction` must be `all` or `each`, not `al`",
                "did you mean `all`?",
            ),
        ),
        (
            "attempts: 12",
            "attempts: many",
            (
                "manifest-type",
                11,
                25,
                "`defaults.locks.retries.attempts` must be a whole number, not text",
                None,
            ),
        ),
        (
            "timeout: 200ms",
            "timeout: 200",
            (
                "manifest-type",
                10,
                14,
                "`defaults.locks.timeout` must be a duration with its unit, such as `200ms`, "
                "`2s`, `15min` or `2h` (more than zero, at most `499h`), not a whole number",
                "say the unit: `200ms`, `200s`, `200min`",
            ),
        ),
        (
            "attempts: 12",
            "attempts: 0",
            ("manifest-value", 11, 25, "`defaults.locks.retries.attempts` must be at least 1", None),
        ),
        (
            "manifest: 1",
            "manifest: 2",
            ("manifest-value", 2, 11, "`manifest` must be `1`, not `2`", None),
        ),
        (
            "{scope: schema, format: plain}",
            "{format: plain}",
            ("manifest-required", 36, 5, "`backups.policies.definitions` needs `scope`", "add `scope:`"),
        ),
        (
            "format: plain",
            "format: plain, compress: gzip:1",
            (
                "manifest-value",
                36,
                59,
                "`backups.policies.definitions.compress` needs `format: custom`; pg_dump compresses"
                " no plain script here",
                "remove `compress:`, or use `format: custom`",
            ),
        ),
        (
            "backup: definitions",
            "backup: definition",
            (
                "manifest-reference",
                13,
                11,
                "`backup:` names `definition`, and there is no such policy of `backups.policies`",
                "did you mean `definitions`?",
            ),
        ),
        (
            "extends: staging",
            "extends: stagin",
            (
                "manifest-reference",
                24,
                14,
                "`production` extends `stagin`, and there is no such environment",
                "did you mean `staging`?",
            ),
        ),
        (
            "only: [dev]",
            "only: [dve]",
            (
                "manifest-reference",
                32,
                103,
                "`only:` of `3` names `dve`, and there is no such environment",
                "did you mean `dev`?",
            ),
        ),
        (
            "requires: [20250915090000]",
            "requires: [20250915090001]",
            (
                "manifest-reference",
                32,
                31,
                "`3` requires `20250915090001`, and there is no such migration",
                "did you mean `20250915090000`?",
            ),
        ),
        (
            "    - 20250915090000\n",
            "    - {version: 20250915090000, requires: [3]}\n",
            (
                "manifest-reference",
                31,
                44,
                "`20250915090000` requires `3`, which is listed later; the order of the list "
                "is the order of application",
                "move `3` above `20250915090000`",
            ),
        ),
        (
            "    - 20250915090000\n",
            "    - {version: 20250915090000, only: [staging]}\n",
            (
                "manifest-reference",
                32,
                31,
                "`3` requires `20250915090000`, which `dev` does not get",
                "make the two `only:` lists agree",
            ),
        ),
        (
            "    - 20250915090000\n",
            "    - 20250915090000\n    - 20250915090000\n",
            (
                "manifest-duplicate",
                32,
                7,
                "`20250915090000` is listed twice, first in line 31",
                "remove one of the two lines",
            ),
        ),
        (
            "backup: everything",
            "backup: none",
            (
                "manifest-value",
                32,
                84,
                "a migration may only ask for more than its environment, and `none` is never more",
                "remove `backup:` here, or set it on the environment",
            ),
        ),
        (
            "expect: rows >= 1",
            "expect: rows >= many",
            (
                "manifest-value",
                40,
                41,
                "`rows >= many` is no expectation; write `rows = 3`, `rows >= 1`, `empty`, "
                "`value = 0` or `true`",
                None,
            ),
        ),
        (
            "name: rows",
            "name: no orphans",
            (
                "manifest-duplicate",
                40,
                12,
                "two checks have the name `no orphans`, the first in line 39",
                "say what each of them asks",
            ),
        ),
        (
            "expect: true",
            "expect: false",
            ("manifest-value", 41, 48, "`checks[2].expect` must be `true`, not `false`", None),
        ),
        (
            "  dev:\n",
            "  Dev:\n",
            (
                "manifest-value",
                17,
                3,
                "`Dev` in `environments` must be a name of small letters, digits, `_` and `-` that "
                "starts with a letter",
                None,
            ),
        ),
        (
            "{service: shop-production}",
            "{servce: shop-production}",
            (
                "manifest-unknown-key",
                25,
                16,
                "`servce` is no key of `environments.production.database`; the keys are `service`",
                "did you mean `service`?",
            ),
        ),
        (
            "database: embedded",
            "database: embeded",
            (
                "manifest-value",
                18,
                15,
                "`environments.dev.database` must be `embedded`, a connection string "
                "(`postgresql://…` or `host=… dbname=…`) or `{service: NAME}`",
                "did you mean `embedded`?",
            ),
        ),
        (
            "project: shop",
            "project: 360",
            ("manifest-type", 3, 10, "`project` must be text, not a whole number", "put it between quotes"),
        ),
        (
            "directory: migrations",
            "directory: ${DIRECTORY}",
            (
                "manifest-interpolation",
                28,
                14,
                "`migrations.directory` is the same for everybody: no variables here",
                "write the name itself",
            ),
        ),
        (
            "role: owner",
            "role: a${1}",
            (
                "manifest-interpolation",
                15,
                10,
                "`${` must be followed by the name of a variable; a dollar before a brace is `$${`",
                "write `$$` for a dollar that is meant literally",
            ),
        ),
        (
            "role: owner",
            "role: ${A+x}",
            (
                "manifest-interpolation",
                15,
                9,
                "`${A+x…` is none of `${NAME}`, `${NAME:-default}` and `${NAME:?message}`",
                "write `$$` for a dollar that is meant literally",
            ),
        ),
        (
            "role: owner",
            "role: ${A:-x",
            (
                "manifest-interpolation",
                15,
                9,
                "`${A` has no closing brace",
                "write `$$` for a dollar that is meant literally",
            ),
        ),
    ],
)
def test_mistake_is_told_with_place_and_way_out(
    old: str, new: str, expected: tuple[str, int, int, str, str | None]
) -> None:
    if old == "  dev:\n":  # the environment is named elsewhere too
        assert expected in [_as_tuple(f) for f in findings(changed(old, new))]
    else:
        assert only(changed(old, new)) == expected


def _as_tuple(finding: Diagnostic) -> tuple[str, int, int, str, str | None]:
    assert finding.location is not None
    return finding.code, finding.location.line, finding.location.column, finding.message, finding.hint
