"""Connection strings: read as libpq reads them, printed without their secrets."""

from __future__ import annotations

from urllib.parse import quote

import psycopg
import pytest
from hypothesis import given
from hypothesis import strategies as st

from smeta_declare.conninfo import Conninfo


def conninfo(dsn: str) -> Conninfo:
    return Conninfo(dsn=dsn, source="DATABASE_URL")


@pytest.mark.parametrize(
    ("dsn", "shown"),
    [
        ("postgresql://anna:geheim@db.example:5433/smeta", "anna@db.example:5433/smeta"),
        ("postgres://db.example/smeta", "db.example/smeta"),
        ("postgresql:///smeta?host=/run/pg&port=5433&user=anna", "anna@/run/pg:5433/smeta"),
        ("postgresql://anna:geheim@[::1]:5433/smeta", "anna@[::1]:5433/smeta"),
        ("postgresql://a:1,b:2/smeta", "a:1,b:2/smeta"),
        ("host=db.example dbname=smeta user=anna password=geheim", "anna@db.example/smeta"),
        ("host = 'db example'  dbname='it\\'s' password='ge heim'", "db example/it's"),
        ("service=production password=geheim", "service production"),
        ("dbname=smeta", "localhost/smeta"),
        ("geheim", "(connection string)"),
        ("", "(connection string)"),
    ],
)
def test_it_is_shown_without_its_secrets(dsn: str, shown: str) -> None:
    assert str(conninfo(dsn)) == shown
    assert "geheim" not in repr(conninfo(dsn))


@pytest.mark.parametrize(
    ("dsn", "secrets"),
    [
        ("postgresql://anna:geheim@h/d", {"geheim"}),
        ("postgresql://anna:p%40ss@h/d", {"p@ss", "p%40ss"}),
        ("postgresql://anna:pa#ss@h/d", {"pa#ss"}),
        ("postgresql://anna:pa?ss@h/d", {"pa?ss"}),
        ("postgresql://anna:a:b@h/d", {"a:b"}),
        ("postgresql:///d?password=a+b", {"a+b"}),
        ("postgresql:///d?user=u&password=p%40ss", {"p@ss", "p%40ss"}),
        ("postgresql:///d?sslpassword=x#y", {"x#y"}),
        ("password='ge heim' dbname=d", {"ge heim"}),
        ("password=a\\ b sslpassword=c1", {"a b", "c1"}),
        ("postgresql://anna@h/d", set()),
        ("dbname=d", set()),
    ],
)
def test_its_secrets_are_known(dsn: str, secrets: set[str]) -> None:
    assert conninfo(dsn).secrets() == secrets
    for secret in secrets:
        assert secret not in str(conninfo(dsn))


@given(
    user=st.text(alphabet="abж %", min_size=1, max_size=8),
    password=st.text(
        alphabet=st.characters(exclude_categories=["Cs"], exclude_characters="\0"),
        min_size=1,
        max_size=20,
    ),
)
def test_a_password_in_a_url_is_read_as_libpq_reads_it(user: str, password: str) -> None:
    dsn = f"postgresql://{quote(user, safe='')}:{quote(password, safe='')}@h:1/d"

    assert conninfo(dsn).parameters() == psycopg.conninfo.conninfo_to_dict(dsn)
    assert password in conninfo(dsn).secrets()


@given(st.lists(st.sampled_from([*"ab#?+:&='", "%40", "%25"]), max_size=12).map("".join))
def test_what_libpq_takes_for_a_password_is_a_secret(password: str) -> None:
    for dsn in (f"postgresql://u:{password}@h/d", f"postgresql://h/d?password={password}"):
        try:
            known = psycopg.conninfo.conninfo_to_dict(dsn)
        except psycopg.Error:
            continue
        if found := known.get("password"):
            assert found in conninfo(dsn).secrets()
