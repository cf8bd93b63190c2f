"""One migration for one environment: rendered, cut into sections, split into statements, hashed."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace

from smeta_declare import parsetree
from smeta_declare.batching import Batch, NotBatchable, batch_of
from smeta_declare.diagnostics import Diagnostic, Location, Severity
from smeta_declare.directives import Alone, BatchOptions, CommitsInside, Placed, directives, nothing_to_undo
from smeta_declare.environment import Check, MigrationEntry
from smeta_declare.errors import InvalidInput, InvalidManifest, InvalidMigration, SmetaError
from smeta_declare.inputs import inputs_digest
from smeta_declare.migration import Header, MigrationFile, Sections, checksum, cut_sections
from smeta_declare.parser import tree
from smeta_declare.plan import PlannedStatement, Question
from smeta_declare.statement import Comment, Script, leading_comments, parse
from smeta_declare.template import Rendered, Value, render
from smeta_declare.validation import Expectation

_MAY_COMMIT = ("CallStmt", "DoStmt")
_EXPECT = re.compile(r"\s*expect:\s*(.*?)\s*")


@dataclass(frozen=True, slots=True, kw_only=True)
class RenderedSection:
    """A part of a migration as SQL: its text, its statements, and for those that run alone the reason."""

    rendered: Rendered
    statements: tuple[PlannedStatement, ...]
    script: Script

    @property
    def text(self) -> str:
        """The rendered SQL, comments included; secrets are only named in it."""
        return self.rendered.text.strip("\n") + "\n"

    @property
    def meaning(self) -> str:
        """SHA-256 of the parse tree and the directives: the same for texts that differ in other comments only."""
        found = self.script.meaning
        directed = [f"{i} {said}" for i, s in enumerate(self.statements) if (said := s.directive)]
        return checksum("\n".join([found, *directed])) if directed else found


@dataclass(frozen=True, slots=True, kw_only=True)
class RenderedMigration:
    """A migration ready to be planned."""

    file: MigrationFile
    text: str  # the whole file, rendered
    header: Header
    entry: MigrationEntry
    forward: RenderedSection
    rollback: RenderedSection | None  # without statements where it says that there is nothing to undo
    rollback_empty: bool  # a section is there, and says nothing
    validation: RenderedSection | None
    validations: tuple[Question, ...]
    inputs: str


def render_migration(
    file: MigrationFile,
    entry: MigrationEntry,
    variables: Mapping[str, Value],
    load: Callable[[str], str | None],
) -> RenderedMigration:
    """Render a file for an environment's variables; every mistake in it raises InvalidMigration with its place."""
    if "\0" in file.source:
        raise InvalidMigration(
            "a NUL byte: PostgreSQL would end the text there",
            location=Location.of(file.path, file.source, file.source.index("\0")),
            hint="remove it; the file was probably saved in UTF-16, save it in UTF-8",
        )
    header = Header.read(file)
    whole = render(file.source, name=file.path, variables=variables, load=load)
    cut = cut_sections(whole.text, locate=whole.locate, genuine=whole.is_template_text)
    forward, rollback, validation = _sections(whole, cut)
    for section in (forward, validation):
        if section and not section.statements and (at := nothing_to_undo(section.rendered)) is not None:
            raise InvalidMigration(
                "nothing-to-undo outside of a rollback section",
                location=section.rendered.locate(at),
                hint="put it between -- ROLLBACK_START and -- ROLLBACK_END",
            )
    empty = rollback is not None and not rollback.statements and nothing_to_undo(rollback.rendered) is None
    included = [(name, load(name) or "") for name in whole.includes]
    return RenderedMigration(
        file=file,
        text=whole.text,
        header=header,
        entry=entry,
        forward=forward,
        rollback=None if empty else rollback,
        rollback_empty=empty,
        validation=validation,
        validations=questions(validation, file.version) if validation else (),
        inputs=inputs_digest(file, variables, included),
    )


def _sections(
    whole: Rendered, cut: Sections
) -> tuple[RenderedSection, RenderedSection | None, RenderedSection | None]:
    """The sections, or the mistakes of all of them at once."""
    found: list[RenderedSection | None] = []
    mistakes: list[InvalidInput] = []
    for bounds in (cut.forward, cut.rollback, cut.validation):
        try:
            found.append(section_of(whole.slice(*bounds)) if bounds else None)
        except InvalidInput as error:
            mistakes.append(error)
    if len(mistakes) == 1:
        raise mistakes[0]
    if mistakes:
        findings = [f for error in mistakes for f in error.as_findings()]
        raise InvalidMigration(f"{len(findings)} mistakes in {whole.name}", findings=findings)
    forward, rollback, validation = found
    assert forward is not None  # noqa: S101 # every file has one
    return forward, rollback, validation


def section_of(rendered: Rendered) -> RenderedSection:
    """The statements of a text that is a section by itself (a rollback kept in the database, a check)."""
    script = parse(rendered)
    secrets = rendered.secrets
    placed = directives(rendered, script.statements)
    return RenderedSection(
        rendered=rendered,
        script=script,
        statements=tuple(
            _directed(
                rendered,
                PlannedStatement(
                    text=s.text,
                    kind=s.kind,
                    alone=s.alone,
                    effect=s.effect,
                    concurrently=s.concurrently,
                    secrets=tuple(
                        slot.shifted(-s.start) for slot in secrets if s.start <= slot.start < s.end
                    ),
                    source=rendered,
                    start=s.start,
                ),
                above,
            )
            for s, above in zip(script.statements, placed, strict=True)
        ),
    )


def _directed(rendered: Rendered, statement: PlannedStatement, above: Placed | None) -> PlannedStatement:
    """A statement that is run as the directive above it says."""
    if above is None:
        return statement
    match above.directive:
        case CommitsInside(resume=resume):
            if statement.kind not in _MAY_COMMIT:
                raise InvalidMigration(
                    f"commits-inside above {statement.summary}, which makes no transactions of its own",
                    location=rendered.locate(above.start),
                    hint="it is for CALL and DO; smeta sees itself what else must run outside of a transaction",
                )
            reason = "it makes transactions of its own"
            return replace(statement, alone=statement.alone or reason, resume=resume)
        case Alone():
            if not parsetree.validates(*tree(statement.text)[0]):
                raise InvalidMigration(
                    f"alone above {statement.summary}, of which it cannot be told whether it may run twice",
                    location=rendered.locate(above.start),
                    hint="it is for ALTER TABLE … VALIDATE CONSTRAINT",
                )
            return replace(
                statement, alone="it looks at every row, and holds no other lock meanwhile", resume="again"
            )
        case BatchOptions() as options:
            try:
                return replace(statement, batch=_batch(statement, options))
            except NotBatchable as error:
                raise InvalidMigration(
                    f"this statement cannot be run in batches: {error}",
                    location=rendered.locate(above.start),
                    hint=error.hint,
                ) from error


def _batch(statement: PlannedStatement, options: BatchOptions) -> Batch:
    if statement.secrets:
        raise NotBatchable("it holds a secret", "set what needs the secret in a statement of its own")
    return batch_of(statement.text, options)


def questions(section: RenderedSection, version: str) -> tuple[Question, ...]:
    """The validation queries of a section with what `-- expect:` says of each."""
    before, after = leading_comments(section.rendered, section.script.statements)
    for comment in after:
        if _EXPECT.fullmatch(comment.text):
            raise InvalidMigration(
                "an expectation with no query under it",
                location=section.rendered.locate(comment.start),
                hint="put `-- expect: …` on the line above its query",
            )
    asked = []
    for number, (statement, parsed, comments) in enumerate(
        zip(section.statements, section.script.statements, before, strict=True), start=1
    ):
        if statement.directive:
            raise InvalidMigration(
                "a directive above a validation",
                location=statement.location,
                hint="validations are only asked; directives are for statements that change something",
            )
        if parsed.kind != "SelectStmt":
            raise InvalidMigration(
                f"a validation must be a query, this is {parsed.summary}",
                location=statement.location,
                hint="validations run read only; put what changes something before the sections",
            )
        asked.append(
            Question(
                name=f"{version} validation {number}",
                statement=statement,
                expect=_expectation(comments, section.rendered),
            )
        )
    return tuple(asked)


def _expectation(comments: Iterable[Comment], rendered: Rendered) -> Expectation:
    found = Expectation()
    seen = False
    for comment in comments:
        if match := _EXPECT.fullmatch(comment.text):
            place = rendered.locate(comment.start)
            if seen:
                raise InvalidMigration(
                    "two expectations for one query", location=place, hint="keep one of them"
                )
            try:
                found, seen = Expectation.parse(match[1]), True
            except ValueError as error:
                raise InvalidMigration(str(error), location=place) from error
    return found


def section_meaning(section: RenderedSection | None, asked: tuple[Question, ...] = ()) -> str | None:
    """The meaning of a section with its expectations; None where there is no section."""
    if section is None:
        return None
    if not asked:
        return section.meaning
    return checksum("\n".join([section.meaning, *(str(q.expect) for q in asked)]))


def migration_findings(migration: RenderedMigration) -> Iterator[Diagnostic]:
    """What is allowed, and rarely meant: no statement at all, no way back."""
    version = migration.file.version
    if migration.forward.statements and migration.rollback:
        return
    top = Location.of(migration.file.path, migration.file.source, 0)
    if not migration.forward.statements:
        yield Diagnostic(
            code="empty-migration",
            severity=Severity.MEDIUM,
            message=f"{version} has no statement in its way forward",
            object=version,
            location=top,
            hint="write it above the sections, or remove the migration from the list",
        )
    else:
        yield Diagnostic(
            code="no-rollback",
            severity=Severity.MEDIUM,
            message=f"{version} has {'an empty' if migration.rollback_empty else 'no'} rollback section: "
            "there will be no way back",
            object=version,
            location=top,
            hint=f"{'write' if migration.rollback_empty else 'add -- ROLLBACK_START … -- ROLLBACK_END with'} "
            "what undoes it, or `-- smeta: nothing-to-undo` where nothing has to be",
        )


def check_question(check: Check) -> Question:
    """A declared check as a question; it must be one query."""
    place = check.location or Location(file="smeta.yaml", line=1)
    try:
        section = section_of(Rendered.kept(check.sql, name=f"check “{check.name}”"))
    except SmetaError as error:
        raise InvalidManifest(
            f"check “{check.name}”: {error.message}", location=place, hint=error.hint
        ) from error
    if [s.kind for s in section.statements] != ["SelectStmt"]:
        raise InvalidManifest(f"check “{check.name}” must be exactly one query", location=place)
    return Question(
        name=check.name,
        statement=section.statements[0],
        expect=check.expect,
        declared_at=check.location,
    )
