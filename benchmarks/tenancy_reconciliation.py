"""How long it takes to see that 500 tenants' tables are as declared: `python -m benchmarks.tenancy_reconciliation`."""

from __future__ import annotations

import time

from smeta_declare.tenancy.adoption import reconciliation
from tests.servers import fresh_database, running_server
from tests.tenants import Tenants, declared

TABLES = 500
SQL = f"""
create table tenants (id uuid primary key);
do $$ begin for n in 1..{TABLES} loop execute format('create table t%s (id uuid primary key, a int, b text,
    c timestamptz default now(), d numeric, e int unique, up uuid references t%s)', n, greatest(1, n - 1));
end loop; end $$
"""


def main() -> None:
    """Adopt the tables, then ask and compare three times."""
    for kind in ("pg18", "pg15"):
        with fresh_database(running_server(kind)) as database, Tenants.at(database) as tenants:
            database.query(SQL)
            block = declared(
                {"owner": "smeta_owner", "application": ["smeta_backup"]},
                {f"t{n}": "tenant" for n in range(1, TABLES + 1)},
            )
            tenants.reconcile(block)
            for _ in range(3):
                begin = time.perf_counter()
                catalogue = tenants.catalogue(block)
                asked = time.perf_counter()
                left = reconciliation(block, catalogue)
                done = time.perf_counter()
                print(
                    f"{kind}: {TABLES} tables asked in {asked - begin:.2f} s, compared in {done - asked:.2f} s: "
                    f"{'nothing' if left is None else 'something'} to do"
                )


if __name__ == "__main__":
    main()
