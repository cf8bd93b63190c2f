"""What a person or a server can do wrong: exit code, code of the error, place, and the database as it was."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
import pytest

from smeta_declare.project import LARGEST
from tests.servers import TestDatabase
from tests.workspace import Outcome, Workspace

TABLE = "create table a (id int);"


def apply(workspace: Workspace, *arguments: str) -> Outcome:
    return workspace.smeta("apply", "--env", "test", *arguments)


def assert_untouched(database: TestDatabase) -> None:
    """Nothing was ever made: no table, no history, no journal, and nobody holds a lock."""
    assert database.query("select relname from pg_class where relnamespace = 'public'::regnamespace") == []
    assert database.query("select to_regnamespace('smeta') is null") == [(True,)]
    assert database.query("select count(*) from pg_locks where locktype = 'advisory'") == [(0,)]


def assert_rolled_back(workspace: Workspace, database: TestDatabase) -> None:
    """A run was begun and undone: the journal knows it, and nothing else is there."""
    assert workspace.tables() == set()
    assert workspace.applied() == []
    assert database.query("select outcome from smeta.run") == [("failed",)]
    assert database.query("select count(*) from smeta.step") == [(0,)]
    assert database.query("select count(*) from pg_locks where locktype = 'advisory'") == [(0,)]


# the manifest


@pytest.mark.parametrize("server", ["pg18"], indirect=True)
@pytest.mark.parametrize(
    ("line", "code", "place"),
    [
        ("more: [a\nx: 2", "manifest-yaml", "smeta.yaml:15:2"),
        ("project: other", "manifest-duplicate-key", "smeta.yaml:14:1"),
        ("chekcs: []", "manifest-unknown-key", "smeta.yaml:14:1"),
    ],
)
def test_a_manifest_that_cannot_be_read(
    workspace: Workspace, database: TestDatabase, line: str, code: str, place: str
) -> None:
    workspace.migration("1_a", TABLE)
    workspace.manifest.write_text(workspace.manifest.read_text().rstrip("\n") + f"\n{line}\n")

    refused = apply(workspace)

    assert refused.code == 78
    assert f"error[{code}]" in refused.err
    assert place in refused.err
    assert "database: nothing was run" in refused.err
    assert_untouched(database)


def test_a_manifest_that_is_a_directory_or_not_there(offline: Workspace) -> None:
    offline.manifest.unlink()
    missing = apply(offline)
    offline.manifest.mkdir()

    assert missing.code == 78
    assert "error[manifest-missing]: no smeta.yaml in " in missing.err
    assert "--manifest FILE" in missing.err
    assert apply(offline).code == 78
    named = offline.smeta("--manifest", "smeta.yaml", "status", "--env", "test")
    assert (named.code, named.err.splitlines()[0]) == (
        78,
        "error[manifest-missing]: smeta.yaml is not a file",
    )


def test_an_environment_that_is_not_there_or_not_given(offline: Workspace) -> None:
    unknown = offline.smeta("apply", "--env", "tset")
    assert unknown.code == 64
    assert "error[unknown-environment]: there is no environment `tset`" in unknown.err
    assert "did you mean `test`?" in unknown.err

    missing = offline.smeta("apply")
    assert missing.code == 64
    assert "--env" in missing.err


def test_a_variable_of_the_environment_that_is_not_set(offline: Workspace) -> None:
    del offline.environ["TRIAL_URL"]

    refused = apply(offline)

    assert refused.code == 78
    assert "error[manifest-interpolation]: TRIAL_URL is not set" in refused.err
    assert "smeta.yaml:9:15" in refused.err
    assert "export TRIAL_URL=" in refused.err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("apply", "--to", "9_z"), "no migration 9_z in environment test"),
        (("rollback", "--to", "9_z"), "9_z is not applied, so there is no way back to it"),
        (("rollback", "--to", "1_a"), "1_a is not applied, so there is no way back to it"),
        (("rollback", "1", "--to", "1_a"), "not both"),
        (("rollback", "0"), "0"),
        (("rollback", "all"), "all"),
        (("apply", "--runner-wait", "soon"), "soon"),
    ],
)
@pytest.mark.parametrize("server", ["pg18"], indirect=True)
def test_a_command_line_that_asks_for_what_does_not_exist(
    workspace: Workspace, database: TestDatabase, arguments: tuple[str, ...], words: str
) -> None:
    workspace.migration("1_a", TABLE)

    refused = workspace.smeta(*arguments, "--env", "test")

    assert refused.code == 64
    assert words in refused.err
    assert_untouched(database)


# the migrations


@pytest.mark.parametrize("server", ["pg18"], indirect=True)
@pytest.mark.parametrize(
    ("source", "code", "place"),
    [
        (f"{TABLE}\nselect {{{{ nothing }}}};", "template", "1_a.sql:2:8"),
        (f"{TABLE}\n{{% if %}}", "template", "1_a.sql:2:7"),
        (f"{TABLE}\nselct 1;", "sql-syntax", "1_a.sql:2:1"),
        (
            "{% for i in [1, 2, 3] %}\nselect {{ i }};\n{% endfor %}\ncreate tabel b ();",
            "sql-syntax",
            "1_a.sql:4:8",
        ),
        (
            f"{TABLE}\n-- ROLLBACK_START\ndrop tabel a;\n-- ROLLBACK_END",
            "sql-syntax",
            "1_a.sql:3:6",
        ),
        (f"begin;\n{TABLE}", "transaction-control", "1_a.sql:1:1"),
        (f"{TABLE}\n  commit;", "transaction-control", "1_a.sql:2:3"),
        (f"{TABLE}\nrollback;", "transaction-control", "1_a.sql:2:1"),
        (f"{TABLE}\nsavepoint x;", "transaction-control", "1_a.sql:2:1"),
        (f"{TABLE}\nset transaction read only;", "transaction-control", "1_a.sql:2:1"),
        (f"{TABLE}\nset local transaction_read_only = on;", "transaction-control", "1_a.sql:2:1"),
        (f"\\set x 1\n{TABLE}", "psql-command", "1_a.sql:1:1"),
        (f"{TABLE}\n\\i other.sql\n", "psql-command", "1_a.sql:2:1"),
        (f"{TABLE}\ncopy a from stdin;\n1\n\\.\n", "copy-stdin", "1_a.sql:2:1"),
        (f"{TABLE}\n-- \0\n", "migration-invalid", "1_a.sql:2:4"),
        (f"{TABLE}\n-- ROLLBACK_START\ndrop table a;", "migration-invalid", "1_a.sql:2:4"),
        (
            f"{TABLE}\n-- ROLBACK_START\ndrop table a;\n-- ROLBACK_END\n",
            "migration-invalid",
            "1_a.sql:2:4",
        ),
        (f"-- Migration: a\n-- Version: 2_b\n{TABLE}", "migration-invalid", "1_a.sql:2:13"),
        (
            f"{TABLE}\n-- VALIDATION_START\n-- expect: many rows\nselect 1;\n-- VALIDATION_END\n",
            "migration-invalid",
            "1_a.sql:3:1",
        ),
        (
            f"{TABLE}\n-- VALIDATION_START\ninsert into a values (1);\n-- VALIDATION_END\n",
            "migration-invalid",
            "1_a.sql:3:1",
        ),
    ],
)
def test_a_migration_that_cannot_be_run_is_refused_before_anything(
    workspace: Workspace, database: TestDatabase, source: str, code: str, place: str
) -> None:
    workspace.migration("1_a", "").write_text(source)

    refused = apply(workspace)

    assert refused.code == 78
    assert f"error[{code}]" in refused.err
    assert f"migrations/{place}\n" in refused.err
    assert "database: nothing was run" in refused.err
    assert_untouched(database)


def test_the_mistakes_of_all_files_are_told_at_once(offline: Workspace) -> None:
    offline.migration("1_a", "selct 1;")
    offline.migration("2_b", "select {{ nothing }};")
    offline.migration("3_c", "commit;")

    refused = offline.smeta("validate")

    assert refused.code == 78
    for place in ("1_a.sql:4:1", "2_b.sql:4:8", "3_c.sql:4:1"):
        assert place in refused.err
    assert "3 mistakes" in refused.err


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (TABLE.encode("utf-16"), "migrations/1_a.sql is not UTF-8: byte 0xff at offset 0"),
        (TABLE.encode("utf-16-le"), "saved in UTF-16"),
        ("-- ok\n-- Смета".encode("cp1251"), "migrations/1_a.sql:2:1"),
    ],
)
def test_a_file_in_another_encoding(offline: Workspace, content: bytes, words: str) -> None:
    offline.migration("1_a", "").write_bytes(content)

    refused = offline.smeta("validate")

    assert refused.code == 78
    assert words in refused.err
    assert "save it in UTF-8" in refused.err


def test_a_file_that_is_too_large_is_not_read(offline: Workspace) -> None:
    with offline.migration("1_a", TABLE).open("r+b") as file:
        file.truncate(LARGEST + 1)  # a hole in the file, not a full disk

    refused = offline.smeta("validate")

    assert refused.code == 78
    assert "migrations/1_a.sql is larger than 64 MiB" in refused.err


def test_files_and_list_that_differ(offline: Workspace) -> None:
    offline.migration("1_a", TABLE).unlink()
    offline.file("2_b").write_text(TABLE)

    refused = apply(offline)

    assert refused.code == 78
    assert "error[migration-missing]: 1_a is listed in the manifest" in refused.err
    assert "error[migration-unlisted]: migrations/2_b.sql is on disk" in refused.err
    assert offline.smeta("validate").code == 78


@pytest.mark.parametrize("name", ["../secret.sql", "/etc/hostname", "part/../../secret.sql", "link.sql"])
def test_an_include_stays_in_the_directory(offline: Workspace, name: str) -> None:
    (offline.root / "secret.sql").write_text("select 'gotcha';")
    (offline.root / "migrations" / "part").mkdir()
    (offline.root / "migrations" / "part" / "x.sql").write_text("select 1;")
    if name == "link.sql":
        (offline.root / "migrations" / name).symlink_to("../secret.sql")
        offline.versions.append("link")
    offline.migration("1_a", f'{TABLE}\n{{% include "{name}" %}}')

    refused = offline.smeta("render", "--env", "test")

    assert refused.code == 78
    assert "gotcha" not in refused.out + refused.err


def test_a_link_out_of_the_directory_is_no_migration(offline: Workspace) -> None:
    (offline.root / "secret.sql").write_text("select 'gotcha';")
    offline.migration("1_a", "").unlink()
    offline.file("1_a").symlink_to("../secret.sql")

    refused = offline.smeta("render", "--env", "test")

    assert refused.code == 78
    assert (
        "migrations/1_a.sql is a link to nowhere, or out of migrations" in refused.err
    )  # not: there is none
    assert "gotcha" not in refused.out + refused.err


# what looks odd and is right


@pytest.mark.parametrize("ends", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("bom", [b"", b"\xef\xbb\xbf"])
@pytest.mark.parametrize("server", ["pg18"], indirect=True)
def test_line_ends_and_a_bom_do_not_matter(workspace: Workspace, bom: bytes, ends: str) -> None:
    path = workspace.migration("1_a", TABLE, "drop table a;", "select 1 from pg_class where relname = 'a';")
    path.write_bytes(bom + path.read_text().rstrip("\n").replace("\n", ends).encode())

    done = apply(workspace)

    assert done.code == 0, done.err
    assert workspace.tables() == {"a"}
    assert workspace.smeta("rollback", "--env", "test").code == 0
    assert workspace.tables() == set()


def test_bodies_and_comments_are_not_taken_for_statements(
    workspace: Workspace, database: TestDatabase
) -> None:
    workspace.migration(
        "1_a",
        """\
-- a comment; with 'quotes" and $$ in it
/* another; /* nested; */ commit; */
create table a (id int default 1, t text default 'x; y''s -- z'); -- 'end
insert into a (t) values ($q$ ; ' -- "$$" commit; $q$);
create function body() returns int language plpgsql as $$
begin
    -- it's; here
    return 1; -- commit;
end
$$;
create function atomic() returns bigint language sql begin atomic
    select 1;
    select count(*) from a;
end;
create table b (n bigint default atomic());
insert into b default values;
do $do$ begin execute 'create table c (id int)'; end $do$;
create table "semi;colon" ("a;'b" int);
""",
        'drop table "semi;colon", b;\ndrop function atomic(), body();\ndrop table a, c;',
    )

    done = apply(workspace)

    assert done.code == 0, done.err
    assert workspace.tables() == {"a", "b", "c", "semi;colon"}
    assert database.query("select body(), (select n from b), t from a") == [
        (1, 1, ' ; \' -- "$$" commit; '),
    ]
    assert workspace.smeta("rollback", "--env", "test", "--allow-destructive").code == 0
    assert workspace.tables() == set()


@pytest.mark.parametrize(
    "trick",
    [
        "do $$ begin commit; end $$;",
        "create procedure p() language plpgsql as $$ begin commit; end $$;\ncall p();",
        "do $$ begin execute 'commit'; end $$;",
        "do $$ begin rollback; end $$;",
    ],
)
def test_a_commit_in_a_body_is_refused_by_the_server(
    workspace: Workspace, database: TestDatabase, trick: str
) -> None:
    workspace.migration("1_a", f"{TABLE}\n{trick}")

    failed = apply(workspace)

    assert failed.code == 1
    assert "error[statement-failed]" in failed.err
    assert "everything was rolled back" in failed.err
    assert_rolled_back(workspace, database)


# the session


def test_a_role_and_a_search_path_end_with_their_migration(
    workspace: Workspace, database: TestDatabase
) -> None:
    workspace.migration("1_a", "create schema other;\nset search_path = other;\ncreate table here (id int);")
    workspace.migration(
        "2_b",
        "set role none;\nset local session authorization default;\n"
        "create table there as select current_user::text as who;\nreset role;",
    )
    workspace.migration(
        "3_c", "create table paths as select pg_catalog.current_setting('search_path') as path;"
    )

    done = apply(workspace)

    assert done.code == 0, done.err
    assert database.query("select to_regclass('other.here') is null, who, path from there, paths") == [
        (False, "smeta_owner", '"$user", public')
    ]


@pytest.mark.parametrize("transaction", ["all", "each"])
def test_what_the_last_statement_sets_does_not_stop_the_journal(
    workspace: Workspace, database: TestDatabase, transaction: str
) -> None:
    # It failed with exit code 1 after everything had been committed.
    workspace.environment = f"transaction: {transaction}"
    workspace.migration("1_a", f"{TABLE}\nset default_transaction_read_only = on;")
    workspace.migration("2_b", "create table b (id int);\nset default_transaction_read_only = on;")

    done = apply(workspace)

    assert done.code == 0, done.err
    assert workspace.applied() == ["1_a", "2_b"]
    assert database.query("select outcome from smeta.run") == [("done",)]


# the server


@pytest.mark.parametrize(
    "url",
    [
        "host=127.0.0.1 port=1 dbname=none",
        "postgresql://u:geheim@127.0.0.1:1/none",
        "postgres://a b:geheim@[",
    ],
)
def test_a_server_that_cannot_be_reached(offline: Workspace, url: str) -> None:
    offline.environ["TRIAL_URL"] = url

    for command in (("apply",), ("plan",), ("status",), ("rollback",), ("verify",), ("history",)):
        failed = offline.smeta(*command, "--env", "test")
        assert failed.code == 4
        assert "error[connection]: cannot connect to " in failed.err
        assert "environments.test.database (TRIAL_URL)" in failed.err
        assert "nothing was run" in failed.err
        assert "geheim" not in failed.err


def test_a_wrong_password(workspace: Workspace, database: TestDatabase) -> None:
    role = f"liar_{database.name}"
    database.query_as_admin(f"create role {role} login password 'right'")
    try:
        workspace.environ["TRIAL_URL"] = psycopg.conninfo.make_conninfo(
            database.conninfo.dsn, user=role, password="wr0ng-canary"
        )

        failed = apply(workspace)

        assert failed.code == 4
        assert "error[connection]" in failed.err
        assert "password" in failed.err
        assert "~/.pgpass" in failed.err
        assert "wr0ng-canary" not in failed.err
        assert_untouched(database)
    finally:
        database.query_as_admin(f"drop role {role}")


def test_a_database_that_does_not_exist(workspace: Workspace, database: TestDatabase) -> None:
    workspace.environ["TRIAL_URL"] = psycopg.conninfo.make_conninfo(database.conninfo.dsn, dbname="no_such")

    failed = apply(workspace)

    assert failed.code == 4
    assert 'database "no_such" does not exist' in failed.err


@contextmanager
def the_server_goes_away(database: TestDatabase) -> Iterator[None]:
    """The administrator ends whoever sleeps in this database."""
    kill = (
        "select count(pg_terminate_backend(pid)) from pg_stat_activity"
        " where datname = current_database() and query = 'select pg_sleep(60)'"
    )
    killed = threading.Event()

    def work() -> None:
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline:
            if database.query_as_admin(kill) != [(0,)]:
                killed.set()
                return

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield
    finally:
        thread.join()
    assert killed.is_set()


def test_a_server_that_goes_away(workspace: Workspace, database: TestDatabase) -> None:
    path = workspace.migration("1_a", f"{TABLE}\nselect pg_sleep(60);")

    with the_server_goes_away(database):
        failed = apply(workspace)

    assert failed.code == 4
    assert "error[connection-lost]" in failed.err
    assert "everything was rolled back" in failed.err
    assert "terminating connection due to administrator command" in failed.err
    assert workspace.tables() == set()
    path.write_text(TABLE)
    assert apply(workspace).code == 0
    assert database.query("select outcome from smeta.run order by started_at") == [("died",), ("done",)]


def test_a_server_that_goes_away_after_something_was_committed(
    workspace: Workspace, database: TestDatabase
) -> None:
    workspace.environment = "transaction: each"
    workspace.migration("1_a", TABLE)
    path = workspace.migration("2_b", "create table b (id int);\nselect pg_sleep(60);")

    with the_server_goes_away(database):
        halfway = apply(workspace)

    assert halfway.code == 5
    assert "error[connection-lost]" in halfway.err
    assert "committed" in halfway.err
    assert workspace.tables() == {"a"}
    path.write_text("create table b (id int);")
    assert apply(workspace).code == 0
    assert workspace.applied() == ["1_a", "2_b"]


def test_a_statement_that_takes_too_long(workspace: Workspace, database: TestDatabase) -> None:
    workspace.environment = "timeouts: {statement: 200ms}"
    workspace.migration("1_a", f"{TABLE}\nselect pg_sleep(60);")

    failed = apply(workspace)

    assert failed.code == 4
    assert "error[statement-timeout]" in failed.err
    assert "migrations/1_a.sql:5:1" in failed.err
    assert "timeouts:" in failed.err
    assert_rolled_back(workspace, database)


def test_a_unique_constraint_that_is_checked_at_the_commit(
    workspace: Workspace, database: TestDatabase
) -> None:
    workspace.migration(
        "1_a",
        "create table a (id int unique deferrable initially deferred);\ninsert into a values (1), (1);",
    )

    failed = apply(workspace)

    assert failed.code == 1
    assert 'duplicate key value violates unique constraint "a_id_key"' in failed.err
    assert "Key (id)=(1) already exists" in failed.err
    assert_rolled_back(workspace, database)


def test_what_a_server_says_is_told_whole_and_in_its_own_letters(
    workspace: Workspace, database: TestDatabase
) -> None:
    workspace.migration("1_a", "create table a (имя text);\nselect 'Смета', missing from a;")

    failed = apply(workspace)

    assert 'error[statement-failed]: 1_a: column "missing" does not exist' in failed.err
    assert "migrations/1_a.sql:5:17" in failed.err  # counted in characters
    workspace.migration(
        "1_a",
        "do $$ begin raise exception 'нет места' using detail = 'подробно', hint = 'подсказка'; end $$;",
    )
    told = apply(workspace).err
    for words in ("1_a: нет места", "detail: подробно", "hint: подсказка", "sqlstate: P0001"):
        assert words in told
    assert workspace.tables() == set()


def test_a_rollback_that_fails_in_the_middle(workspace: Workspace, database: TestDatabase) -> None:
    workspace.migration(
        "1_a",
        f"{TABLE}\ncreate table b (id int);",
        "drop table b;\ndrop table nowhere;\ndrop table a;",
    )
    assert apply(workspace).code == 0

    failed = workspace.smeta("rollback", "--env", "test")

    assert failed.code == 1
    assert 'table "nowhere" does not exist' in failed.err
    assert "rollback of 1_a:2:1" in failed.err
    assert "everything was rolled back" in failed.err
    # It was once told to correct the file, which a rollback does not read.
    assert "the rollback SQL kept when it was applied" in failed.err
    assert workspace.tables() == {"a", "b"}
    assert workspace.applied() == ["1_a"]
    database.query("create table nowhere ()")
    assert workspace.smeta("rollback", "--env", "test").code == 0
    assert workspace.tables() == set()


def test_a_database_that_somebody_closed_to_writing(workspace: Workspace, database: TestDatabase) -> None:
    # It was opened for ourselves, silently.
    workspace.migration("1_a", TABLE)
    database.query_as_admin(f"alter database {database.name} set default_transaction_read_only = on")

    refused = apply(workspace)

    assert refused.code == 3
    assert "error[read-only-database]: default_transaction_read_only is on" in refused.err
    assert "alter database" in refused.err
    assert_untouched(database)
    assert workspace.smeta("status", "--env", "test").code == 0


# the log


@pytest.mark.parametrize("server", ["pg18"], indirect=True)
def test_a_log_that_cannot_be_written(workspace: Workspace, database: TestDatabase) -> None:
    # It was called a bug of smeta, in the middle of the run.
    workspace.migration("1_a", TABLE, "drop table a;")
    (workspace.root / "migration.log").mkdir()

    for arguments in (("apply",), ("rollback",)):
        refused = workspace.smeta(*arguments, "--env", "test")
        assert refused.code == 3
        assert "error[log-unwritable]" in refused.err
        assert "Is a directory" in refused.err
        assert "--log-file" in refused.err
    assert_untouched(database)
    elsewhere = workspace.smeta("--log-file", "run.log", "apply", "--env", "test")
    assert elsewhere.code == 0
    assert '"event": "run-finished"' in (workspace.root / "run.log").read_text()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
@pytest.mark.parametrize("server", ["pg18"], indirect=True)
def test_a_disk_that_is_full_ends_the_log_and_not_the_run(workspace: Workspace) -> None:
    workspace.migration("1_a", TABLE)

    done = workspace.smeta("--log-file", "/dev/full", "apply", "--env", "test")

    assert done.code == 0, done.err
    assert "warning: nothing more is told to /dev/full: No space left on device\n" in done.err
    assert workspace.applied() == ["1_a"]


@pytest.mark.parametrize("server", ["pg18"], indirect=True)
def test_a_reader_that_leaves_does_not_stop_the_run(workspace: Workspace) -> None:
    for number in range(1, 4):
        workspace.migration(
            f"{number}_m",
            f"create table t{number} (id int);\nselect pg_sleep(0.1);",
            f"drop table t{number};",
        )
    workspace.environment = "transaction: each"
    workspace.write_manifest()
    with workspace.start("apply", "--env", "test") as run:
        assert run.stderr is not None
        run.stderr.readline()  # the plan's summary
        run.stderr.close()

    assert workspace.applied() == ["1_m", "2_m", "3_m"]


# the history


def test_a_history_row_that_somebody_deleted_is_missed(workspace: Workspace, database: TestDatabase) -> None:
    # `relation "a" already exists` was all that was said.
    workspace.migration("1_a", TABLE, "drop table a;")
    workspace.migration("2_b", "create table b (id int);", "drop table b;")
    for command in ("apply", "rollback", "apply"):
        assert workspace.smeta(command, "--env", "test").code == 0
    assert "row-erased" not in workspace.smeta("plan", "--env", "test").err
    database.query("delete from public.schema_migrations where version = '2_b'")

    status = workspace.smeta("status", "--env", "test")
    verified = workspace.smeta("verify", "--env", "test")
    failed = apply(workspace)

    assert "its history row is gone" in status.out
    assert verified.code == 1
    assert "FAILED 2_b history" in verified.out
    assert failed.code == 1
    assert "high[row-erased]: 2_b was applied, as the journal has it" in failed.err
    assert "put the row back from a backup" in failed.err
    assert 'relation "b" already exists' in failed.err
    # Whoever undid the rest by hand, too, goes on; and back again it is no news.
    database.query("drop table b")
    assert apply(workspace).code == 0
    assert workspace.smeta("verify", "--env", "test").code == 0
    assert workspace.smeta("rollback", "--env", "test").code == 0
    assert "row-erased" not in apply(workspace, "--dry-run").err
    assert workspace.applied() == ["1_a"]
