"""What the speed of requests is measured of: `tunesmith serve`, and three empty routes beside it."""

from __future__ import annotations

import socket
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from itertools import count
from pathlib import Path
from typing import Any

from databases import Postgres
from light import TASK
from light_load import Done, Load, work
from processes import Process, free_port, until
from tunesmith_service.client import Client
from tunesmith_service.tokens import Token

HERE = Path(__file__).parent
ROOM = "1000000"
SPACE = {"lr": {"low": 1e-4, "high": 1.0, "log": True}}
AT_ONCE = 1000


def listens(port: int) -> bool:
    with socket.socket() as one:
        return one.connect_ex(("127.0.0.1", port)) == 0


@contextmanager
def place(within: Path | None, *, postgresql: bool = True) -> Iterator[tuple[Path, Postgres | None]]:
    """A new directory for everything, and a PostgreSQL whose data lie there."""
    with tempfile.TemporaryDirectory(dir=within) as made, ExitStack() as stack:
        home = Path(made)
        home.chmod(0o755)  # as root PostgreSQL runs as a user of its own
        postgres = Postgres(home) if postgresql else None
        if postgres is not None:
            stack.callback(postgres.close)
        yield home, postgres


class Serve(Process):
    """`tunesmith serve`.

    Args:
        limited: whether one slot or person may ask no more often than usual.
    """

    def __init__(self, home: Path, url: str = "", *flags: str, limited: bool = False) -> None:
        self.home, self.port = home, free_port()
        command = [sys.executable, "-m", "tunesmith_service", "serve", "--home", str(home)]
        command += ["--port", str(self.port), "--reserve-bytes", "0", *flags]
        for flag in ("--slot-rate", "--slot-burst", "--person-rate", "--person-burst"):
            command += [] if limited else [flag, ROOM]
        super().__init__(command, environ={"TUNESMITH_DATABASE_URL": url} if url else {})
        self.says("service.listening", seconds=60)
        self._numbers = count()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def token(self, role: str) -> str:
        return (self.home / f"{role}.token").read_text().strip()

    def people(self) -> Client:
        return Client(self.url, self.token("operator"), retry_for=60)

    @contextmanager
    def study(self, ready: int, **changed: Any) -> Iterator[str]:
        """A study with so many trials that stand ready; stopped afterwards."""
        name = f"study-{next(self._numbers)}"
        stage = {"kind": "coarse_grid", "name": "by-hand", "epochs": 1, "axes": {"lr": 2}}
        spec: Mapping[str, Any] = {"name": name, "task": TASK, "space": SPACE, "stages": [stage], **changed}
        with self.people() as people:
            people.post("studies", json=spec)
            for begin in range(0, ready, AT_ONCE):
                params = [{"lr": 0.01}] * min(AT_ONCE, ready - begin)
                people.post("studies", name, "trials", json={"params": params, "stage": "by-hand"})
            yield name
            people.post("studies", name, "stop")

    def load(self, seconds: float, **more: Any) -> Load:
        return Load(self.port, self.token("worker"), seconds, **more)

    def work(self, ready: int, seconds: float, **more: Any) -> Done:
        with self.study(ready):
            return work(self.load(seconds, **more))


class EmptyRoutes(Process):
    def __init__(self) -> None:
        self._port, self._token = free_port(), Token.mint().reveal()
        super().__init__([sys.executable, str(HERE / "empty_routes.py"), str(self._port), self._token])
        until(lambda: listens(self._port), 60, saw=lambda: self.said)

    def work(self, seconds: float, **more: Any) -> Done:
        return work(Load(self._port, self._token, seconds, **more))
