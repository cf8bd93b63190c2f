"""Expressions by what they mean, and names that fit: the pure parts under the reconciliation of tenants."""

from __future__ import annotations

import pytest

from smeta_declare.tenancy.meaning import same
from smeta_declare.tenancy.naming import object_name


@pytest.mark.parametrize(
    ("written", "printed"),
    [
        ("tenant_id = (select public.f())", "(tenant_id = ( SELECT public.f() AS f))"),
        ("a = (select f()) or (a is null and (select f()) is not null)",
         "((a = ( SELECT f() AS f)) OR ((a IS NULL) AND (( SELECT f() AS f) IS NOT NULL)))"),
        ("nullif(pg_catalog.current_setting('a.b', true), '')::uuid",
         "(NULLIF(current_setting('a.b'::text, true), ''::text))::uuid"),
        ('"Odd Name"::text = (select f())', '(("Odd Name")::text = ( SELECT f() AS f))'),
        ("exists (select 1 from s.p p1 where p1.id = t.p and p1.x = (select f()))",
         "(EXISTS ( SELECT 1\n   FROM s.p p1\n  WHERE ((p1.id = t.p) AND (p1.x = ( SELECT f() AS f)))))"),
    ],
)  # fmt: skip
def test_what_the_server_prints_is_what_was_written(written: str, printed: str) -> None:
    assert same(written, printed)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("a = (select f())", "a = f()"),
        ("a = (select f())", "a::text = (select f())"),
        ("a = (select f())", "a = (select g())"),
        ("a = (select f())", "a = (select other.f())"),
        ("a = 'x'", "a = 'X'"),
        ("current_setting('a', true)", "current_setting('a', false)"),
        ("a or b and c", "(a or b) and c"),
        ("true", None),
        ("not sql (", "not sql ["),
    ],
)
def test_what_means_something_else_is_not_the_same(one: str, other: str | None) -> None:
    assert not same(one, other)


def test_names_fit_and_differ() -> None:
    assert (
        object_name("estimates", "tenant_id", "project_id", "fkey") == "estimates_tenant_id_project_id_fkey"
    )
    long = [object_name("т" * 31, column, "key") for column in ("tenant_id_a", "tenant_id_b")]
    assert all(len(name.encode()) <= 63 and name.endswith("_key") for name in long)
    assert len(set(long)) == 2
