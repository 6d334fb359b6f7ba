"""A migrated database is the one that the tables describe; start-up refuses what may forget."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from databases import Databases
from processes import free_port, until
from sqlalchemy import Connection, Engine, inspect, text
from sqlalchemy.exc import DBAPIError
from tunesmith_service import db, guards, migrate, store
from tunesmith_service.notice_tables import deliveries

metadata = deliveries.metadata  # of all tables


@pytest.fixture(params=["sqlite", "postgresql"])
def fresh(request: pytest.FixtureRequest, databases: Databases, tmp_path: Path) -> Iterator[Engine]:
    """What `metadata.create_all` and the guards make, without a migration."""
    is_sqlite = request.param == "sqlite"
    url = f"sqlite:///{tmp_path}/fresh.db" if is_sqlite else databases.empty_postgresql()
    engine = db.open_engine(url)
    with db.writing(engine).begin() as conn:
        metadata.create_all(conn)
        guards.install(conn)
    yield engine
    engine.dispose()
    if not is_sqlite:
        databases.drop(url)


@pytest.fixture
def migrated(fresh: Engine, databases: Databases) -> Iterator[Engine]:
    url = databases.make(fresh.dialect.name)
    engine = db.open_engine(url)
    yield engine
    engine.dispose()
    databases.drop(url)


def described(conn: Connection) -> dict[str, object]:
    """Columns, constraints, indexes and triggers, with their text made comparable."""
    found: dict[str, object] = {}
    inspector = inspect(conn)
    for table in sorted(set(inspector.get_table_names()) - {"alembic_version"}):
        found[table] = [
            [
                (c["name"], str(c["type"]), c["nullable"], _plain(c["default"]))
                for c in inspector.get_columns(table)
            ],
            sorted((str(c["name"]), _plain(c["sqltext"])) for c in inspector.get_check_constraints(table)),
            sorted((str(u["name"]), u["column_names"]) for u in inspector.get_unique_constraints(table)),
            sorted((str(i["name"]), i["column_names"], i["unique"]) for i in inspector.get_indexes(table)),
            sorted(
                (f["constrained_columns"], f["referred_table"]) for f in inspector.get_foreign_keys(table)
            ),
            inspector.get_pk_constraint(table)["constrained_columns"],
        ]
    wanted = (
        "SELECT name, sql FROM sqlite_master WHERE type = 'trigger' ORDER BY name"
        if conn.dialect.name == "sqlite"
        else "SELECT t.tgname, pg_get_triggerdef(t.oid) || p.prosrc FROM pg_trigger t "
        "JOIN pg_proc p ON p.oid = t.tgfoid WHERE NOT t.tgisinternal ORDER BY t.tgname"
    )
    found["triggers"] = [tuple(row) for row in conn.execute(text(wanted))]
    found["moves"] = sorted(tuple(row) for row in conn.execute(text("SELECT * FROM moves")))
    return found


def _plain(sql: object) -> str:
    return re.sub(r"[\s()]+", " ", str(sql)).strip()


def test_a_migrated_database_equals_a_fresh_one(fresh: Engine, migrated: Engine) -> None:
    with fresh.connect() as one, migrated.connect() as other:
        assert described(one) == described(other)
        context = MigrationContext.configure(
            other, opts={"compare_type": True, "compare_server_default": True}
        )
        assert compare_metadata(context, metadata) == []


def test_migrating_again_changes_nothing(engine: Engine) -> None:
    with engine.connect() as conn:
        before, instance = described(conn), store.instance(conn)
    migrate.upgrade(engine)
    with engine.connect() as conn:
        assert (described(conn), store.instance(conn)) == (before, instance)


@pytest.fixture(params=["sqlite", "postgresql"])
def first_release(request: pytest.FixtureRequest, databases: Databases, tmp_path: Path) -> Iterator[Engine]:
    """A database as the first migration alone makes it, with a study in it."""
    is_sqlite = request.param == "sqlite"
    url = f"sqlite:///{tmp_path}/first.db" if is_sqlite else databases.empty_postgresql()
    engine = db.open_engine(url)
    migrate.upgrade(engine, "0001")
    with db.writing(engine).begin() as conn:
        for statement in FIRST_RELEASE:
            conn.exec_driver_sql(statement)
    yield engine
    engine.dispose()
    if not is_sqlite:
        databases.drop(url)


_OF_TRIAL = (
    "(study_id, stage_id, number, key, ordinal, state, params, work, sampler_state, planned_at, created_us) "
    "VALUES (1, 1, {n}, 'k{n}', {n}, 'waiting', "
    "'{{\"lr\":1e16}}', '{{\"epochs\":3,\"seed\":1}}', '{{}}', 1, 5)"
)
FIRST_RELEASE = (
    "INSERT INTO studies (project_id, name, state, spec, task, priority, waiting, trial_n, finished, "
    "created_us) VALUES (1, 's', 'active', '{}', 'digits', 0, 1, 2, 1, 1)",
    "INSERT INTO stages (study_id, position, name, kind, spec, state) "
    "VALUES (1, 0, 'grid', 'coarse_grid', '{}', 'active')",
    *(f"INSERT INTO trials {_OF_TRIAL.format(n=n)}" for n in range(2)),
    "INSERT INTO attempts (trial_id, attempt, incarnation, lease_hash, worker_id, slot_id, devices, claim_id,"
    " claimed_us, resume_step) VALUES (1, 1, 1, 'h', 'w', 's', 1, 'c', 6, 0)",
    "INSERT INTO reports (trial_id, attempt, seq, study_id, n, trial_number, stage, at_us, digest, points) "
    "VALUES (1, 1, 1, 1, 2, 0, 'grid', 7, 'd', '[]')",
    "INSERT INTO snapshots (trial_id, attempt, step, sha256, size, committed_us) "
    "VALUES (1, 1, 3, 'ab', 9, 8)",
    "UPDATE trials SET state = 'running', attempt = 1, lease_hash = 'h', lease_expires_us = 9 WHERE id = 1",
    "UPDATE trials SET state = 'complete', stop_reason = 'budget', value = 0.1, lease_hash = NULL, "
    "lease_expires_us = NULL WHERE id = 1",
)


def test_a_database_of_the_first_release_is_brought_up_to_date_with_all_it_holds(
    first_release: Engine,
) -> None:
    tables = ("trials", "attempts", "reports", "snapshots", "stages", "studies")

    def rows(conn: Connection) -> dict[str, list[dict[str, object]]]:
        return {t: [dict(r._mapping) for r in conn.execute(text(f"SELECT * FROM {t}"))] for t in tables}

    with first_release.connect() as conn:
        before = rows(conn)
    migrate.upgrade(first_release)
    with first_release.connect() as conn:
        after = rows(conn)
    for table in tables:
        for old, new in zip(before[table], after[table], strict=True):
            assert {name: new[name] for name in old} == old
    assert [(t["kind"], t["test_read"], t["tags"]) for t in after["trials"]] == [("train", None, None)] * 2
    assert [(s["note"], s["note_version"], s["created_by"]) for s in after["studies"]] == [("", 0, None)]


@pytest.mark.parametrize(
    ("broken", "why"),
    [
        ("UPDATE trials SET state = 'failed', stop_reason = 'error' WHERE id = 2", "illegal move"),
        ("UPDATE trials SET attempt = 0 WHERE id = 1", "attempt never goes down"),
        ("UPDATE trials SET value = NULL WHERE id = 1", "ck_trials_value"),
        ("UPDATE attempts SET trial_id = 77 WHERE trial_id = 1", "(?i)foreign key"),
    ],
)
def test_what_was_refused_before_a_migration_is_refused_after_it(
    first_release: Engine, broken: str, why: str
) -> None:
    migrate.upgrade(first_release)
    with pytest.raises(DBAPIError, match=why), db.writing(first_release).begin() as conn:
        conn.exec_driver_sql(broken)


def test_a_migration_that_breaks_leaves_the_database_as_it_was(tmp_path: Path) -> None:
    """SQLite rebuilds the table with foreign keys off, so a row that names nothing is looked for by us."""
    engine = db.open_engine(f"sqlite:///{tmp_path}/broken.db")
    migrate.upgrade(engine, "0001")
    with db.writing(engine).connect() as conn:
        connection: Any = conn.connection.dbapi_connection
        connection.execute("PRAGMA foreign_keys=OFF")
        connection.execute(FIRST_RELEASE[5].replace("VALUES (1,", "VALUES (77,"))
        connection.execute("PRAGMA foreign_keys=ON")
    with engine.connect() as conn:
        before = described(conn)
    with pytest.raises(RuntimeError, match="point nowhere"):
        migrate.upgrade(engine)
    with engine.connect() as conn:
        assert described(conn) == before
        assert conn.exec_driver_sql("PRAGMA foreign_keys").scalar_one() == 1
    engine.dispose()


def test_two_servers_that_start_together_migrate_one_after_the_other(
    databases: Databases, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = databases.empty_postgresql()
    engines = [db.open_engine(url) for _ in range(3)]
    first, second, looker = engines
    asked = "SELECT 1 FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
    run, second_ones = command.upgrade, list[Future[None]]()

    def waits() -> bool:
        with looker.connect() as conn:
            return conn.exec_driver_sql(asked).first() is not None

    with ThreadPoolExecutor(1) as pool:

        def meanwhile(*arguments: Any) -> None:
            run(*arguments)
            if not second_ones:
                second_ones.append(pool.submit(migrate.upgrade, second))
                until(lambda: waits() or second_ones[0].done(), 60)

        monkeypatch.setattr(command, "upgrade", meanwhile)
        migrate.upgrade(first)
        second_ones[0].result(60)
    with looker.connect() as conn:
        assert migrate.applied(conn) == migrate.newest()
    for engine in engines:
        engine.dispose()
    databases.drop(url)


@pytest.mark.parametrize("dialect", ["sqlite", "postgresql"])
def test_a_database_of_a_newer_version_is_left_alone_and_that_is_said(
    databases: Databases, dialect: str, tmp_path: Path
) -> None:
    url = databases.make(dialect)
    engine = db.open_engine(url)
    with db.writing(engine).begin() as conn:
        conn.exec_driver_sql("UPDATE alembic_version SET version_num = '9999'")
    engine.dispose()
    for name in ("migrate", "serve"):
        flags = [name, "--home", str(tmp_path), "--database-url", url]
        flags += ["--port", str(free_port())] if name == "serve" else []
        done = subprocess.run(
            [sys.executable, "-m", "tunesmith_service", *flags], capture_output=True, text=True, timeout=60,
            check=False,
        )  # fmt: skip
        assert done.returncode != 0
        assert "Traceback" not in done.stderr
        assert f"its newest migration is 9999, and the newest known here is {migrate.newest()}" in done.stderr
        assert "serve it with the version of Tunesmith that migrated it, or a later one" in done.stderr
    databases.drop(url)


def test_the_scripts_are_found_through_the_installed_package(tmp_path: Path) -> None:
    code = (
        "from tunesmith_service import db, migrate; "
        "migrate.upgrade(db.open_engine('sqlite:///new.db')); print('migrated')"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.stdout == "migrated\n", done.stderr


def test_a_durable_database_is_accepted(engine: Engine) -> None:
    with engine.connect() as conn:
        db.check(conn)


def test_a_weaker_database_is_refused_with_what_to_do(engine: Engine) -> None:
    weaker = {
        "sqlite": ("PRAGMA synchronous=NORMAL", "synchronous=FULL"),
        "postgresql": ("SET synchronous_commit = off", "synchronous_commit=on"),
    }
    statement, advice = weaker[engine.dialect.name]
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as conn:
        conn.rollback()
        connection = conn.connection.dbapi_connection
        assert connection is not None
        connection.cursor().execute(statement)
        with pytest.raises(db.WeakDurability, match=advice):
            db.check(conn)
        conn.invalidate()


def test_a_database_in_memory_is_refused() -> None:
    with pytest.raises(ValueError, match="SQLite needs a file"):
        db.open_engine("sqlite://")


def test_a_second_server_on_one_file_is_refused_and_told_who_holds_it(tmp_path: Path) -> None:
    path = tmp_path / "tunesmith.db"
    code = (
        f"from pathlib import Path; from tunesmith_service import db\nwith db.hold(Path({str(path)!r})): pass"
    )
    ask = [sys.executable, "-c", code]
    with db.hold(path):
        done = subprocess.run(ask, capture_output=True, text=True, timeout=60, check=False)
        assert f"is open in process {os.getpid()}" in done.stderr
        assert "use PostgreSQL for several servers" in done.stderr
    assert subprocess.run(ask, capture_output=True, text=True, timeout=60, check=False).returncode == 0


def test_sqlite_waits_for_the_disk_at_each_commit(tmp_path: Path) -> None:
    engine = db.open_engine(f"sqlite:///{tmp_path}/a.db")
    for _ in range(2):  # every connection, not the first alone
        with engine.connect() as conn:
            assert conn.exec_driver_sql("PRAGMA synchronous").scalar_one() == 2
            assert conn.exec_driver_sql("PRAGMA foreign_keys").scalar_one() == 1
    engine.dispose()


def test_a_transaction_that_sqlite_ended_by_itself_is_not_taken_for_committed(tmp_path: Path) -> None:
    engine = db.open_engine(f"sqlite:///{tmp_path}/a.db")
    with pytest.raises(RuntimeError, match="nothing was committed"), db.writing(engine).begin() as conn:
        conn.connection.dbapi_connection.execute("ROLLBACK")  # type: ignore[union-attr]
    engine.dispose()


def test_another_kind_of_database_is_refused() -> None:
    with pytest.raises(ValueError, match="SQLite or PostgreSQL"):
        db.open_engine("mysql://somewhere/else")
