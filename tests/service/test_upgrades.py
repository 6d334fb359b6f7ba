"""A database of any earlier version is brought up to date with all it holds, also after a kill half-way."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from alembic.config import Config
from alembic.script import ScriptDirectory
from databases import DIALECTS, Databases
from sqlalchemy import Connection, Engine, inspect, text
from tunesmith_service import db, migrate

from .test_migrations import FIRST_RELEASE, described

KILLS = 20
SCRIPT = Path(__file__).parents[1] / "killed_upgrade.py"


def revisions() -> list[str]:
    """All there are, the oldest first."""
    config = Config()
    config.set_main_option("script_location", "tunesmith_service:migrations")
    config.set_main_option("path_separator", "os")
    return [r.revision for r in reversed(list(ScriptDirectory.from_config(config).walk_revisions()))]


SINCE = {
    "0002": (
        "UPDATE trials SET kind = 'preflight', test_read = 1 WHERE id = 2",
        """UPDATE stages SET override = '{"reason":"on purpose"}'""",
        "INSERT INTO members (trial_id, place, snapshot_id) VALUES (2, 0, 1)",
        "INSERT INTO test_reads (project_id, task, reads) VALUES (1, 'digits', 1)",
    ),
    "0003": (
        "UPDATE studies SET note = 'seen', note_version = 1, created_by = 'ann'",
        """UPDATE trials SET tags = '["good"]' WHERE id = 1""",
    ),
    "0004": ("UPDATE trials SET variant_of = 0 WHERE id = 2",),
    "0006": (
        "INSERT INTO tokens (project_id, key_id, secret_hash, role, name, created_us) "
        "VALUES (1, 'k', '12345678901234567890123456789012', 'viewer', 'ann', 1)",
        "INSERT INTO sessions (session_hash, token_id, begun_us, last_seen_us, expires_us, browser) "
        "VALUES ('12345678901234567890123456789012', 1, 1, 2, 3, 'Firefox on Linux')",
    ),
    "0008": (
        "INSERT INTO audit (n, at_us, action, actor, key_id, address, request_id, subject, detail, previous, "
        "hash) VALUES (1, 1, 'x', 'ann', 'k', '', '', 'study 1', '{}', '0', 'h')",
    ),
    "0009": (
        "INSERT INTO workers (id, project_id, token_id, name, boot_id, version, tasks, slots, first_seen_us, "
        "last_seen_us, aside_until_us, times_aside) "
        "VALUES ('w', 1, 1, 'gpu', 'b', '1', '{}', '[]', 1, 2, 3, 1)",
    ),
    "0010": ("UPDATE workers SET starts = 2 WHERE id = 'w'",),
}
"""Rows that say what a migration has made room for."""


@contextmanager
def of_version(revision: str, dialect: str, databases: Databases, directory: Path) -> Iterator[Engine]:
    """A database that was made by the first version and lived until this one, with rows of each."""
    directory.mkdir(exist_ok=True)
    url = f"sqlite:///{directory}/old.db" if dialect == "sqlite" else databases.empty_postgresql()
    engine = db.open_engine(url)
    for each in revisions()[: revisions().index(revision) + 1]:
        migrate.upgrade(engine, each)
        with db.writing(engine).begin() as conn:
            for statement in FIRST_RELEASE if each == "0001" else SINCE.get(each, ()):
                conn.exec_driver_sql(statement)
    yield engine
    engine.dispose()
    if dialect != "sqlite":
        databases.drop(url)


def rows(conn: Connection) -> dict[str, list[dict[str, Any]]]:
    """Every row of every table, in order of all it holds."""
    tables = sorted(set(inspect(conn).get_table_names()) - {"alembic_version", "moves"})
    found = {t: [dict(r._mapping) for r in conn.execute(text(f'SELECT * FROM "{t}"'))] for t in tables}
    return {t: sorted(theirs, key=repr) for t, theirs in found.items()}


def kept(before: dict[str, list[dict[str, Any]]], after: dict[str, list[dict[str, Any]]]) -> bool:
    """Whether all that was there is there still; new columns may stand beside it."""
    for table, old in before.items():
        same = sorted(({name: row[name] for name in old[0]} for row in after[table]), key=repr) if old else []
        if same != old:
            return False
    return True


@pytest.fixture
def newest(databases: Databases, dialect: str) -> Iterator[dict[str, object]]:
    """What a new database looks like."""
    url = databases.make(dialect)
    engine = db.open_engine(url)
    with engine.connect() as conn:
        yield described(conn)
    engine.dispose()
    databases.drop(url)


@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize("revision", revisions())
def test_a_database_of_each_version_is_brought_up_to_date_with_all_its_rows(
    databases: Databases, dialect: str, revision: str, tmp_path: Path, newest: dict[str, object]
) -> None:
    with of_version(revision, dialect, databases, tmp_path) as engine:
        with engine.connect() as conn:
            before = rows(conn)
        migrate.upgrade(engine)
        with engine.connect() as conn:
            assert described(conn) == newest
            after = rows(conn)
        if revision < "0006":  # nobody knew when these sessions had begun: people log in once more
            before["sessions"] = []
        assert kept(before, after)
        assert len(after["trials"]) == 2


@pytest.mark.parametrize("dialect", DIALECTS)
def test_an_upgrade_that_is_killed_anywhere_is_done_by_the_next_start(
    databases: Databases, dialect: str, tmp_path: Path, newest: dict[str, object]
) -> None:
    """A real process, killed before a statement or before COMMIT; then the same upgrade once more."""
    with of_version("0001", dialect, databases, tmp_path / "a") as engine:
        with engine.connect() as conn:
            before = rows(conn)
        copy = copies(engine, databases)
        whole = next(copy)
        engine.dispose()
        ((code, statements),) = killed([(10**9, whole)])
        assert code == 0
        points = sorted({1, statements, *range(2, statements, max(statements // KILLS, 1))})
        urls = [next(copy) for _ in points]
        ended = killed(list(zip(points, urls, strict=True)))
        assert [code for code, _ in ended] == [-signal.SIGKILL] * len(points)
        for point, url in zip(points, urls, strict=True):
            after = db.open_engine(url)
            migrate.upgrade(after)
            with after.connect() as conn:
                assert described(conn) == newest, point
                assert kept(before | {"sessions": []}, rows(conn)), point
            after.dispose()
        for url in (whole, *urls):
            if dialect != "sqlite":
                databases.drop(url)


def copies(engine: Engine, databases: Databases) -> Iterator[str]:
    """Addresses of databases that equal this one, which nobody must use meanwhile."""
    number = 0
    while True:
        number += 1
        if engine.dialect.name == "sqlite":
            source = Path(str(engine.url.database))
            target = source.with_name(f"copy-{number}.db")
            with engine.connect() as conn:
                conn.rollback()
                conn.connection.dbapi_connection.execute(f"VACUUM INTO '{target}'")  # type: ignore[union-attr]
            yield f"sqlite:///{target}"
        else:
            engine.dispose()
            yield databases.copy_of(str(engine.url.database))


def killed(asked: list[tuple[int, str]]) -> list[tuple[int, int]]:
    """How each upgrade ended, and how many statements it had, if it was not killed."""
    command = [sys.executable, str(SCRIPT), *(str(word) for pair in asked for word in pair)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    return [(int(code), int(n)) for code, n in (line.split() for line in done.stdout.splitlines())]
