"""What the documentation shows must work: its manifests, migrations, command lines, links and tables."""

from __future__ import annotations

import ast
import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import click
import pytest

from smeta_declare.cli.main import ALIASES, COMMANDS, cli, run
from smeta_declare.environment import MigrationEntry
from smeta_declare.errors import Exit
from smeta_declare.manifest import Manifest, parse_manifest
from smeta_declare.migration import MigrationFile
from smeta_declare.rendering import render_migration
from smeta_declare.resolve import resolve

ROOT = Path(__file__).parents[2]
PAGES = {
    str(path.relative_to(ROOT)): path.read_text(encoding="utf-8")
    for path in (*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"))
}
GENERATED = "docs/manifest.md"  # has tests of its own
ENVIRON = {"SHOP_STAGING_URL": "postgresql://h/d"}
_FENCE = re.compile(r"^( *)```(\S*)[ ]?([^\n]*)\n(.*?)^\1```$", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True, kw_only=True)
class Block:
    """One fenced block: ```language mark."""

    page: str
    language: str
    mark: str
    text: str

    def __str__(self) -> str:
        return f"{self.page}: {self.text.strip().splitlines()[0]}"


def _blocks() -> Iterator[Block]:
    for page, text in PAGES.items():
        for indent, language, mark, body in _FENCE.findall(text):
            lines = (line.removeprefix(indent) for line in body.splitlines(keepends=True))
            yield Block(page=page, language=language, mark=mark, text="".join(lines))


BLOCKS = tuple(_blocks())
MANIFESTS = [b for b in BLOCKS if b.language == "yaml" and b.page != GENERATED]
MIGRATIONS = [b for b in BLOCKS if (b.language, b.mark) == ("sql", "migration")]


def manifest_of(block: Block) -> Manifest:
    return parse_manifest(block.text, file="smeta.yaml")


def test_fences_are_found() -> None:
    assert {b.language for b in BLOCKS} == {"python", "sh", "sql", "text", "yaml"}
    assert len(BLOCKS) == sum(text.count("```") for text in PAGES.values()) // 2
    assert MANIFESTS
    assert MIGRATIONS


@pytest.mark.parametrize("block", MANIFESTS, ids=str)
def test_manifest_resolves_in_every_environment(block: Block) -> None:
    assert block.mark == "smeta.yaml", "a yaml block is a whole manifest, so that it can be tried"
    manifest = manifest_of(block)

    for name in manifest.environments:
        assert resolve(manifest, name, ENVIRON).name == name


@pytest.mark.parametrize("block", MIGRATIONS, ids=str)
def test_migration_renders_for_the_environments_of_its_page(block: Block) -> None:
    version = re.search(r"^-- Version: (\S+)$", block.text, re.MULTILINE)
    assert version is not None
    file = MigrationFile(version=version[1], path=f"migrations/{version[1]}.sql", source=block.text)
    manifest = manifest_of(next(m for m in MANIFESTS if m.page == block.page))

    for name in manifest.environments:
        environment = resolve(manifest, name, ENVIRON)
        entry = MigrationEntry(version=version[1], timeouts=environment.timeouts)
        rendered = render_migration(file, entry, environment.template_variables(), lambda _name: None)
        assert rendered.forward.statements
        assert rendered.rollback is not None


def test_manifest_of_writing_migrations_lists_the_migrations_of_the_page() -> None:
    page = "docs/writing-migrations.md"
    manifest = manifest_of(next(m for m in MANIFESTS if m.page == page))
    shown = [b.text for b in MIGRATIONS if b.page == page]

    assert [entry.version for entry in manifest.entries] == [
        found for text in shown for found in re.findall(r"^-- Version: (\S+)$", text, re.MULTILINE)
    ]


def test_error_of_the_readme_is_what_smeta_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    broken = next(b.text for b in BLOCKS if b.mark == "broken")
    version = re.findall(r"^-- Version: (\S+)$", broken, re.MULTILINE)[0]
    (tmp_path / "migrations").mkdir()
    (tmp_path / "migrations" / f"{version}.sql").write_text(broken)
    (tmp_path / "smeta.yaml").write_text(
        "manifest: 1\nproject: shop\nenvironments: {dev: {database: embedded}}\n"
        f"migrations: {{apply: [{version}]}}\n"
    )
    monkeypatch.chdir(tmp_path)

    code = run(["validate"])

    said = re.sub(r"parser of postgresql [\d.]+", "parser of postgresql N", capsys.readouterr().err)
    shown = next(b.text for b in BLOCKS if b.page == "README.md" and b.language == "text")
    assert re.sub(r"parser of postgresql [\d.]+", "parser of postgresql N", shown) == said
    assert code == Exit.INVALID
    assert f"(here {int(code)})" in PAGES["README.md"]


# Command lines


def _command_lines() -> Iterator[tuple[str, str]]:
    """Every `smeta …` of shell blocks and of code within sentences."""
    for block in BLOCKS:
        if block.language == "sh":
            yield from ((block.page, line) for line in block.text.splitlines() if line.startswith("smeta "))
    for page, text in PAGES.items():
        for span in re.findall(r"`(smeta [^`\n]+)`", _FENCE.sub("", text)):
            if "…" not in span:
                yield page, span


LINES = sorted(set(_command_lines()))


def parse(line: str) -> list[str]:
    """Parse a command line as smeta would, without running it; the verbs in it."""
    words = shlex.split(re.split(r" [|>] ", line)[0], comments=True)[1:]
    command: click.Command = cli
    verbs: list[str] = []
    while isinstance(command, click.Group):
        context = click.Context(command, info_name="smeta")
        _, words, _ = command.make_parser(context).parse_args(list(words))
        if not words:
            return verbs
        found = command.get_command(context, words[0])
        assert found is not None, f"there is no verb {words[0]}"
        verbs.append(words[0])
        command, words = found, words[1:]
    if words or len(line.split()) > len(verbs) + 1:  # a sentence may name a verb alone
        command.make_context(verbs[-1], list(words))
    return verbs


@pytest.mark.parametrize(("page", "line"), LINES)
def test_command_line_exists(page: str, line: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SMETA_ENV", "dev")  # in a sentence the environment may be left out

    assert parse(line) or line == "smeta --help", page


@pytest.mark.parametrize(
    "line", ["smeta aply", "smeta plan --envv dev", "smeta db restart", "smeta rollback x"]
)
def test_command_line_that_does_not_exist_is_found(line: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SMETA_ENV", "dev")

    with pytest.raises((AssertionError, click.UsageError)):
        parse(line)


def test_readme_has_every_verb(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SMETA_ENV", "dev")
    shown = {tuple(parse(line)) for page, line in LINES if page == "README.md"}
    context = click.Context(cli, info_name="smeta")
    wanted: set[tuple[str, ...]] = {(alias,) for alias in ALIASES}
    for verb in COMMANDS:
        command = cli.get_command(context, verb)
        below = command.list_commands(context) if isinstance(command, click.Group) else []
        wanted |= {(verb, name) for name in below} or {(verb,)}

    assert wanted - shown == set()


def test_options_and_settings_named_in_sentences_exist() -> None:
    source = "".join(p.read_text(encoding="utf-8") for p in (ROOT / "smeta_declare").rglob("*.py"))
    source += "".join(p.read_text(encoding="utf-8") for p in (ROOT / "tests").glob("*.py"))
    prose = {page: _FENCE.sub("", text) for page, text in PAGES.items() if page != GENERATED}

    for page, text in prose.items():
        for name in re.findall(r"`(--[a-z-]+|SMETA_[A-Z_]+)[^`\n]*`", text):
            assert name in source, f"{page}: {name}"
        for code in re.findall(r"error\[([a-z-]+)\]", text):
            assert f'"{code}"' in source, f"{page}: error[{code}]"


def test_make_targets_exist() -> None:
    targets = set(re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = {t for text in PAGES.values() for t in re.findall(r"(?:^|`)make ([a-z]+)", text, re.MULTILINE)}

    assert {"demo", "test"} <= named <= targets


# Tables and links


@pytest.mark.parametrize(
    ("page", "heading"), [("README.md", "Exit codes"), ("README.ru.md", "Коды завершения")]
)
def test_exit_codes_are_the_ones_that_hold(page: str, heading: str) -> None:
    section = PAGES[page].split(f"## {heading}\n")[1].split("\n## ")[0]

    assert [int(n) for n in re.findall(r"^\| (\d+) \|", section, re.MULTILINE)] == [int(e) for e in Exit]


def _anchors(text: str) -> set[str]:
    """The anchors that GitHub makes of headings."""
    headings = re.findall(r"^#+ (.+)$", _FENCE.sub("", text), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", sorted(PAGES))
def test_links_lead_somewhere(page: str) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", _FENCE.sub("", PAGES[page])):
        if re.match(r"https?://", target):
            continue
        file, _, anchor = target.partition("#")
        path = (ROOT / page).parent / file if file else ROOT / page
        assert path.resolve().is_relative_to(ROOT), target
        assert path.exists(), target
        if anchor:
            assert anchor in _anchors(path.read_text(encoding="utf-8")), target


def test_promises_name_tests_that_exist() -> None:
    section = PAGES["README.md"].split("## What smeta promises today\n")[1].split("\n## ")[0]
    promises = section.split("\n- ")[1:]

    assert promises
    for promise in promises:
        files = re.findall(r"`(tests/[\w/]+\.py)`", promise)
        assert files, promise
        for file in files:
            assert re.search(r"^def test_", (ROOT / file).read_text(encoding="utf-8"), re.MULTILINE), file


def test_every_finding_of_doctor_is_in_its_table() -> None:
    shown = re.findall(r"^\| `([a-z-]+)` \|", PAGES["docs/doctor.md"], re.MULTILINE)
    package = ROOT / "smeta_declare"
    told = "".join((package / name).read_text(encoding="utf-8") for name in ("diagnosis.py", "doctor.py"))
    source = "".join(p.read_text(encoding="utf-8") for p in package.rglob("*.py"))

    assert set(re.findall(r'code="([a-z-]+)"', told)) <= set(shown)
    assert [code for code in shown if f'"{code}"' not in source] == []
    assert len(shown) == len(set(shown))


def test_every_finding_about_tenants_is_in_its_table() -> None:
    shown = re.findall(r"^\| `(tenancy-[a-z]+)` \|", PAGES["docs/tenancy.md"], re.MULTILINE)
    told = (ROOT / "smeta_declare/tenancy/findings.py").read_text(encoding="utf-8")

    assert sorted(shown) == sorted(set(re.findall(r'"(tenancy-[a-z]+)"', told)))


def test_index_names_every_page() -> None:
    index = PAGES["docs/README.md"]

    for page in PAGES:
        if page.startswith("docs/") and page != "docs/README.md":
            assert f"]({page.removeprefix('docs/')})" in index, page


def test_nothing_names_a_machine() -> None:
    for page, text in PAGES.items():
        assert not re.search(r"(?<![\w.])/(work|tmp/probe|home/\w+|root)/", text), page


def test_a_command_that_is_told_names_its_environment() -> None:
    """What an error tells somebody to run can be run as it stands; NAME where the environment is not known."""
    needs = [name for name in COMMANDS if name in ("apply", "rollback", "status", "plan", "doctor", "verify")]
    spelled = re.compile(rf"`smeta (?:{'|'.join(needs)})\b[^`]*`")

    told = [found for text in _told() for found in spelled.findall(text)]

    assert told
    saved = re.compile(r"`smeta apply (FILE|…)( ?--confirm …|…)?`")  # a plan names its environment itself
    assert [command for command in told if "--env" not in command and not saved.fullmatch(command)] == []


def _told() -> Iterator[str]:
    """The strings of the source that are no docstrings, what is filled in left out."""
    for path in (ROOT / "smeta_declare").rglob("*.py"):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        statements = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
        for node in ast.walk(tree):
            if isinstance(node, ast.JoinedStr):
                yield "".join(
                    str(part.value) if isinstance(part, ast.Constant) else "…" for part in node.values
                )
            elif (
                isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in statements
            ):
                yield node.value


def test_the_first_way_to_install_that_is_shown_works_today() -> None:
    """Until the first release: then the package of PyPI comes first."""
    lines = [
        line for b in BLOCKS if b.page == "README.md" and b.language == "sh" for line in b.text.split("\n")
    ]

    assert next(line for line in lines if line.startswith("pip install")) == "pip install '.[embedded]'"
