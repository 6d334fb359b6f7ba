"""Bring a database up to date. Alembic's scripts ship inside the package, so a wheel can do it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from sqlalchemy import Connection, Engine

from tunesmith_service.db import writing


def upgrade(engine: Engine, revision: str = "head") -> None:
    """Apply what is missing, in one transaction.

    Raises: RuntimeError if a row would be left that names one that is not there.
    """
    config = Config()
    config.set_main_option("script_location", "tunesmith_service:migrations")
    config.set_main_option("path_separator", "os")
    with writing(engine).connect() as conn, _rebuilding(conn), conn.begin():
        config.attributes["connection"] = conn
        if conn.dialect.name == "postgresql":  # a check of a large table takes longer than any request may
            conn.exec_driver_sql("SET LOCAL statement_timeout = 0")
        before = applied(conn)
        command.upgrade(config, revision)
        if conn.dialect.name == "sqlite" and applied(conn) != before:
            _check_references(conn)


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
