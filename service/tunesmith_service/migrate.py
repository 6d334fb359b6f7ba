"""Bring a database up to date. Alembic's scripts ship inside the package, so a wheel can do it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from typing import Any

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from alembic.util import CommandError
from sqlalchemy import Connection, Engine

from tunesmith_service.db import writing
from tunesmith_service.settings import SettingsError

_LOCK = 0x74756E65
"""PostgreSQL's number of the lock that a server holds while it migrates; any that nobody else uses."""


class NewerDatabaseError(SettingsError):
    """A later version of Tunesmith has migrated the database that the settings name."""


def upgrade(engine: Engine, revision: str = "head") -> None:
    """Apply what is missing, in one transaction; servers that start together do so one after the other.

    Raises: NewerDatabaseError; RuntimeError if a row would be left that names one that is not there.
    """
    config = _config()
    with writing(engine).connect() as conn, _rebuilding(conn), conn.begin():
        config.attributes["connection"] = conn
        if conn.dialect.name == "postgresql":  # a check of a large table takes longer than any request may
            conn.exec_driver_sql("SET LOCAL statement_timeout = 0")
            conn.exec_driver_sql(f"SELECT pg_advisory_xact_lock({_LOCK})")
        before = applied(conn)
        try:
            command.upgrade(config, revision)
        except CommandError:
            _check_known(before)
            raise
        if conn.dialect.name == "sqlite" and applied(conn) != before:
            _check_references(conn)


def _config() -> Config:
    config = Config()
    config.set_main_option("script_location", "tunesmith_service:migrations")
    config.set_main_option("path_separator", "os")
    return config


def newest() -> str | None:
    """The newest migration that this version brings."""
    return ScriptDirectory.from_config(_config()).get_current_head()


def _check_known(revision: str | None) -> None:
    known = {script.revision for script in ScriptDirectory.from_config(_config()).walk_revisions()}
    if revision is not None and revision not in known:
        raise NewerDatabaseError(
            f"the database is newer than this version, {version('tunesmith')}: its newest migration is "
            f"{revision}, and the newest known here is {newest()}; serve it with the version of Tunesmith "
            "that migrated it, or a later one"
        )


def applied(conn: Connection) -> str | None:
    """The newest migration that the database has."""
    return MigrationContext.configure(conn).get_current_revision()


@contextmanager
def _rebuilding(conn: Connection) -> Iterator[None]:
    """SQLite alters a table by rebuilding it, which foreign keys that point to it would forbid; whether
    they are held can be changed outside of a transaction alone."""
    if conn.dialect.name != "sqlite":
        yield
        return
    connection: Any = conn.connection.dbapi_connection
    connection.execute("PRAGMA foreign_keys=OFF")
    try:
        yield
    finally:
        connection.execute("PRAGMA foreign_keys=ON")


def _check_references(conn: Connection) -> None:
    if broken := conn.exec_driver_sql("PRAGMA foreign_key_check").fetchall():
        raise RuntimeError(f"the migration would leave rows that point nowhere: {broken[:5]}")
