from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from smeta_declare.diagnostics import Diagnostic
from smeta_declare.errors import Exit, InvalidManifest
from smeta_declare.manifest import (
    MAX_BYTES,
    CannotEdit,
    MissingManifest,
    append_migration,
    find_manifest,
    load_manifest,
    parse_manifest,
)

MINIMAL = "manifest: 1\nproject: shop\nenvironments:\n  dev:\n    database: embedded\n"
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


def test_full_manifest_is_valid() -> None:
    manifest = parse_manifest(FULL, file="smeta.yaml")

    assert manifest.project == "shop"
    assert manifest.environments == ("dev", "staging", "production")
    assert (manifest.migrations_directory, manifest.backups_directory) == ("migrations", "backups")
    assert [e.version for e in manifest.entries] == ["20250901090000_customers", "20250915090000", "3"]
    assert [e.location.line for e in manifest.entries] == [30, 31, 32]


def test_minimal_manifest_has_no_migrations() -> None:
    manifest = parse_manifest(MINIMAL, file="smeta.yaml")

    assert manifest.entries == ()
    assert manifest.migrations_directory == "migrations"


@pytest.mark.parametrize(
    "version", ["1.10", "010", "true", "null", "20260101_01", "2025-01-01", "1e3", "0x1F"]
)
def test_versions_are_text_whatever_yaml_makes_of_them(version: str) -> None:
    manifest = parse_manifest(f"{MINIMAL}migrations:\n  apply: [{version}]\n", file="smeta.yaml")

    assert [e.version for e in manifest.entries] == [version]


@pytest.mark.parametrize("version", ["-a", "../x", "a b", "a/b", "'x\\ny'", '"x\\n"', "x" * 129, "ё"])
def test_versions_are_names_of_files(version: str) -> None:
    assert only(f"{MINIMAL}migrations:\n  apply: [{version}]\n")[0] == "manifest-value"


def test_all_mistakes_are_told_at_once_in_the_order_of_the_file() -> None:
    text = """\
manifest: 1
project: 360
project: shop
defaults: {backup: none, order: maybe, role: "${"}
environments:
  dev: {extends: live, databse: embedded}
  live: &x {database: 5}
migrations:
  apply: [a, a, {requires: [b]}]
"""

    assert [(f.code, f.location.line) for f in findings(text) if f.location] == [
        ("manifest-type", 2),
        ("manifest-duplicate-key", 3),
        ("manifest-value", 4),
        ("manifest-interpolation", 4),
        ("manifest-unknown-key", 6),
        ("manifest-yaml", 7),
        ("manifest-type", 7),
        ("manifest-duplicate", 9),
        ("manifest-required", 9),
    ]


def test_an_error_carries_the_line_and_the_exit_code() -> None:
    with pytest.raises(InvalidManifest) as caught:
        parse_manifest(MINIMAL + "nonsense: 1\n", file="deploy/smeta.yaml")

    place = caught.value.findings[0].location
    assert caught.value.exit_code is Exit.INVALID
    assert str(caught.value) == "deploy/smeta.yaml has 1 mistake"
    assert (str(place), place and place.source_line) == ("deploy/smeta.yaml:6:1", "nonsense: 1")


@pytest.mark.parametrize("text", ["", "- a\n", "just text\n", "~\n"])
def test_what_is_no_mapping_is_told(text: str) -> None:
    assert {f.code for f in findings(text)} <= {"manifest-type", "manifest-required"}


@pytest.mark.parametrize(
    ("extends", "told"),
    [
        ({"a": "a"}, "`a` extends itself: a → a"),
        ({"a": "b", "b": "c", "c": "a"}, "`a` extends itself: a → b → c → a"),
        ({"a": "b", "b": "b"}, "`a` extends itself: a → b → b"),
    ],
)
def test_extends_in_a_circle(extends: dict[str, str], told: str) -> None:
    blocks = "".join(f"  {name}: {{extends: {base}}}\n" for name, base in extends.items())

    assert told in [f.message for f in findings(f"manifest: 1\nproject: p\nenvironments:\n{blocks}")]


@pytest.mark.parametrize("loosened", ["false", "null"])
def test_protection_cannot_be_taken_back(loosened: str) -> None:
    text = FULL.replace(
        "migrations:\n  dir", f"  copy: {{extends: production, protected: {loosened}}}\nmigrations:\n  dir"
    )

    code, line, _, message, _ = only(text)

    assert (code, line) == ("manifest-value", 27)
    assert message == "`copy` extends `production`, which is protected, and cannot take that back"


@pytest.mark.parametrize("dropped", ["[]", "null", "[unchanged_catalog]"])
def test_a_requirement_that_is_inherited_cannot_be_dropped(dropped: str) -> None:
    text = FULL.replace("    protected: true\n", "    protected: true\n    require: [rollback]\n").replace(
        "migrations:\n  dir", f"  copy: {{extends: production, require: {dropped}}}\nmigrations:\n  dir"
    )

    code, line, _, message, _ = only(text)

    assert (code, line) == ("manifest-value", 28)
    assert message == "`copy` extends an environment that requires rollback, and cannot drop that"


def test_values_that_wait_for_variables_pass_wherever_they_stand() -> None:
    text = FULL
    for value in ("transaction: all", "attempts: 12", "connect: 10s", "backup: definitions", "scope: full",
                  "compress: gzip:6", "protected: true", "expect: {value: 0}", "expect: rows >= 1"):  # fmt: skip
        key = value.split(":")[0]
        assert text.count(value) == 1
        text = text.replace(value, f"{key}: '${{X}}'")

    assert parse_manifest(text, file="f").environments == ("dev", "staging", "production")


def test_bare_dollars_stay() -> None:
    manifest = parse_manifest(changed("role: owner", "role: a$b$$c$"), file="f")

    assert manifest.data["defaults"]["role"] == "a$b$c$"


def test_no_finding_shows_a_password() -> None:
    text = f"{MINIMAL}  live: {{databse: 'postgresql://u:s3cret@h/d', protected: 5}}\n  x: {{database: 'mysql://u:s3cret@h'}}\n"

    assert len(findings(text)) == 3
    assert "s3cret" not in repr(findings(text))


def test_find_manifest_looks_upwards(tmp_path: Path) -> None:
    (tmp_path / "smeta.yaml").write_text(MINIMAL)
    below = tmp_path / "a" / "b"
    below.mkdir(parents=True)

    assert find_manifest(below) == tmp_path / "smeta.yaml"


def test_missing_manifest_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(MissingManifest) as caught:
        load_manifest(tmp_path / "smeta.yaml")

    assert caught.value.code == "manifest-missing"
    assert caught.value.hint is not None
    with pytest.raises(MissingManifest):
        load_manifest(tmp_path)


def test_file_that_is_not_utf8_has_a_place(tmp_path: Path) -> None:
    (tmp_path / "smeta.yaml").write_bytes("manifest: 1\nproject: ё".encode() + b"\xff\n")

    with pytest.raises(InvalidManifest) as caught:
        load_manifest(tmp_path / "smeta.yaml")

    assert caught.value.findings[0].message == "this is not UTF-8"
    assert str(caught.value.findings[0].location).endswith("smeta.yaml:2:11")


def test_file_that_is_too_large_is_refused(tmp_path: Path) -> None:
    (tmp_path / "smeta.yaml").write_bytes(b"#" * (MAX_BYTES + 1))

    with pytest.raises(InvalidManifest, match="larger than 5 MB"):
        load_manifest(tmp_path / "smeta.yaml")


def test_loaded_file_keeps_its_path(tmp_path: Path) -> None:
    (tmp_path / "smeta.yaml").write_bytes(b"\xef\xbb\xbf" + FULL.replace("\n", "\r\n").encode())

    manifest = load_manifest(tmp_path / "smeta.yaml")

    assert manifest.path == tmp_path / "smeta.yaml"
    assert manifest.entries[1].location.source_line == "    - 20250915090000"


def test_append_migration_adds_a_line_and_keeps_the_manifest_valid() -> None:
    after = append_migration(FULL, "20251201000000_orders")

    assert after == changed("only: [dev]}\n", "only: [dev]}\n    - 20251201000000_orders\n")
    assert parse_manifest(after, file="f").entries[-1].version == "20251201000000_orders"


@pytest.mark.parametrize("version", ["20251201000000", "true", "null"])
def test_append_migration_quotes_what_yaml_would_not_read_as_text(version: str) -> None:
    after = append_migration(FULL, version)

    assert f'    - "{version}"\n' in after
    assert parse_manifest(after, file="f").entries[-1].version == version


def test_append_migration_says_the_line_when_it_cannot() -> None:
    with pytest.raises(CannotEdit) as caught:
        append_migration(MINIMAL, "1_a")

    assert caught.value.detail == ("migrations:", "  apply:", "    - 1_a")
    assert caught.value.exit_code is Exit.INVALID


def test_append_migration_takes_no_other_names() -> None:
    with pytest.raises(InvalidManifest, match="must be a version"):
        append_migration(FULL, "a: b")


def test_light_commands_do_not_import_the_heavy_libraries() -> None:
    script = (
        "import sys, smeta_declare.manifest as m; m.parse_manifest(sys.stdin.read(), file='f');"
        "sys.exit(', '.join({'psycopg', 'jinja2', 'pglast', 'rich'} & sys.modules.keys()) or 0)"
    )

    done = subprocess.run(
        [sys.executable, "-c", script], input=FULL, text=True, capture_output=True, check=False
    )

    assert (done.returncode, done.stderr) == (0, "")
