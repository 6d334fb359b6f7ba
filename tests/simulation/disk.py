"""A disk under the database that fails, and a server that is killed while it commits."""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass
from random import Random
from typing import Any

from sqlalchemy import Engine, event
from sqlalchemy.exc import OperationalError

from simulation.loop import Process, ProcessKilled


@dataclass(slots=True)
class Disk:
    """How often, of all transactions that write, something goes wrong.

    Attributes:
        begin, commit: it fails, and nothing is written.
        silence: COMMIT is done, and says that it failed.
        statement: a statement in the middle fails (share of statements).
        crash: the server is killed, half of the times before COMMIT, half of them after it.
    """

    random: Random
    begin: float = 0.0
    commit: float = 0.0
    silence: float = 0.0
    statement: float = 0.0
    crash: float = 0.0

    @property
    def is_calm(self) -> bool:
        return not (self.begin or self.commit or self.silence or self.statement or self.crash)

    def calm(self) -> None:
        self.begin = self.commit = self.silence = self.statement = self.crash = 0.0

    def install(self, engine: Engine, server: Process) -> None:
        """From here on this engine stands on this disk."""
        commit = engine.dialect.do_commit

        def do_commit(connection: Any) -> None:
            crashes = self._happens(self.crash)
            if crashes and self._happens(0.5):
                _die(server)
            if self._happens(self.commit):
                raise sqlite3.OperationalError("disk I/O error")
            commit(connection)
            if crashes:
                _die(server)
            if self._happens(self.silence):
                raise sqlite3.OperationalError("disk I/O error")

        def before(_conn: Any, _cursor: Any, statement: str, *_: Any) -> None:
            share = self.begin if statement.startswith("BEGIN IMMEDIATE") else self.statement
            if not statement.startswith("PRAGMA") and self._happens(share):
                raise OperationalError(statement, {}, sqlite3.OperationalError("disk I/O error"))

        engine.dialect.do_commit = do_commit  # type: ignore[method-assign]
        event.listen(engine, "before_cursor_execute", before)

    def _happens(self, share: float) -> bool:
        return share > 0 and self.random.random() < share


def _die(server: Process) -> None:
    server.kill()
    raise ProcessKilled
