"""Bring a database up to date. Alembic's scripts ship inside the package, so a wheel can do it."""

from __future__ import annotations

from alembic import command
from alembic.config import Config
from sqlalchemy import Engine

from tunesmith_service.db import writing


def upgrade(engine: Engine, revision: str = "head") -> None:
    """Apply what is missing, in one transaction."""
    config = Config()
    config.set_main_option("script_location", "tunesmith_service:migrations")
    config.set_main_option("path_separator", "os")
    with writing(engine).begin() as conn:
        config.attributes["connection"] = conn
        command.upgrade(config, revision)
