"""A plan written to a file and read again is the same plan."""

from __future__ import annotations

import json
import tempfile
from dataclasses import replace
from pathlib import Path

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from smeta_declare.backup.policy import BackupPolicy
from smeta_declare.diagnostics import Diagnostic, Severity
from smeta_declare.environment import MigrationEntry
from smeta_declare.migration import MigrationFile
from smeta_declare.plan import CountedLoss, Plan, canonical_digest
from smeta_declare.planner import plan_apply
from smeta_declare.rendering import RenderedMigration, render_migration
from smeta_declare.run import History
from smeta_declare.saved import read, write
from tests.unit.test_planner import TARGET, environment

# What a literal, a comment or a quoted name may hold: anything but what ends a section or a template.
_text = st.text(st.characters(exclude_categories=("Cs", "Cc"), exclude_characters="{}'\"#%"), max_size=12)
_statement = st.one_of(
    _text.map(lambda t: f"insert into a values ('{t}');"),  # noqa: S608 - it is the test's own text
    _text.filter(bool).map(lambda t: f'create table "{t}" (id int);'),
    _text.map(lambda t: f"/* {t.replace('*', '')} */ alter table a add column b int;"),
    st.sampled_from(
        [
            "create index concurrently a_id on a (id);",
            "drop table a;",
            "-- smeta: batch key=id size=10\nupdate a set n = 1 where n is null;",
            "create role app password {{ secret|literal }};",
            "vacuum a;",
        ]
    ),
)
_source = st.tuples(
    st.lists(_statement, min_size=1, max_size=4).map("\n".join),
    st.sampled_from(["", "-- ROLLBACK_START\ndrop table a;\n-- ROLLBACK_END\n"]),
    st.sampled_from(["", "-- VALIDATION_START\n-- expect: rows >= 1\nselect 'б';\n-- VALIDATION_END\n"]),
).map("\n".join)


@st.composite
def plans(draw: st.DrawFn) -> Plan:
    from smeta_declare.rendered import Secret

    sources = {f"{number}_v": text for number, text in enumerate(draw(st.lists(_source, max_size=3)))}

    def rendered(entry: MigrationEntry) -> RenderedMigration:
        file = MigrationFile(
            version=entry.version, path=f"m/{entry.version}.sql", source=sources[entry.version]
        )
        return render_migration(file, entry, {"secret": Secret(name="CANARY")}, lambda _name: None)

    wanted = environment(transaction=draw(st.sampled_from(["all", "each"])), role=draw(st.none() | _text))
    wanted = replace(
        wanted,
        migrations=tuple(MigrationEntry(version=version) for version in sources),
        backup=draw(st.sampled_from([None, BackupPolicy(name="everything", scope="full", format="custom")])),
    )
    plan = plan_apply(wanted, History(id=draw(st.none() | st.just("h"))), TARGET, rendered)
    return replace(
        plan,
        address=draw(_text),
        catalog=draw(st.none() | st.just("0" * 64)),
        findings=(*plan.findings, Diagnostic(code="a-b", severity=Severity.LOW, message=draw(_text))),
        lost=tuple(
            CountedLoss(version=v, what=loss.what, rows=draw(st.none() | st.integers(0, 100_001)))
            for v, loss in plan.losses
        ),
    )


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(plans())
def test_a_plan_survives_its_file(plan: Plan) -> None:
    with tempfile.TemporaryDirectory() as directory:
        file = Path(directory) / "plan.json"
        write(file, plan)
        saved = read(file)  # which holds it against its schema, and its id against its decision

        assert saved.id == plan.id == canonical_digest(plan.decision)
        assert saved.document == json.loads(json.dumps(plan.document()))
        first = file.read_bytes()
        write(file, plan)
        assert file.read_bytes() == first
