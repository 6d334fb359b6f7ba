"""Real processes for tests: a worker as people start it, and waiting for what it says.

Nothing sleeps for luck: `until` looks again and again until a condition holds or its time is up, and
then says what it saw.
"""

from __future__ import annotations

import os
import secrets
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import TypeVar

import httpx
import psutil
from tunesmith_service.client import Client

T = TypeVar("T")
LOOK_SECONDS = 0.02
PATIENCE_SECONDS = 180.0
"""On a machine with much else to do: a start of Python with torch alone may take a minute there."""
START_SECONDS = 300.0
NONE, MANY = "0", "1000000"
ROOMY = {
    "TUNESMITH_RESERVE_BYTES": NONE, "TUNESMITH_RESERVE_PERCENT": NONE, "TUNESMITH_BALLAST_BYTES": NONE,
    "TUNESMITH_PERSON_RATE": MANY, "TUNESMITH_PERSON_BURST": MANY,
    "TUNESMITH_SLOT_RATE": MANY, "TUNESMITH_SLOT_BURST": MANY,
}  # fmt: skip
"""A server of a test asks for no room that others may need, and sends nobody away for asking often."""


def until(
    look: Callable[[], T | None], seconds: float = PATIENCE_SECONDS, *, saw: Callable[[], object] = lambda: ""
) -> T:
    """What `look` returns, once that is true. Raises: AssertionError with `saw()` when the time is up."""
    deadline = time.monotonic() + seconds
    while not (found := look()):
        assert time.monotonic() < deadline, f"not within {seconds} s; saw: {saw()}"
        threading.Event().wait(LOOK_SECONDS)
    return found


def free_port() -> int:
    """Below those that a connection of another test may be given before a server takes it."""
    while True:
        port = 20_000 + secrets.randbelow(12_000)
        with socket.socket() as one, suppress(OSError):
            one.bind(("127.0.0.1", port))
            return port


@contextmanager
def filled(port: int, operator: str) -> Iterator[None]:
    """All places of a server but the reserved ones are held, by requests whose bodies do not come."""
    head = f"POST /api/v1/studies HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nAuthorization: Bearer {operator}\r\n"
    head += "Content-Type: application/json\r\nContent-Length: 10\r\n\r\n{"
    bearer = {"Authorization": f"Bearer {operator}"}
    with ExitStack() as held:
        people = held.enter_context(
            httpx.Client(base_url=f"http://127.0.0.1:{port}", headers=bearer, timeout=60)
        )

        def is_full() -> bool:
            # once is not enough: a place is given back a moment after the answer
            if all(people.get("/api/v1/studies").status_code == 429 for _ in range(3)):
                return True
            one = held.enter_context(socket.create_connection(("127.0.0.1", port)))
            one.sendall(head.encode())
            return False

        until(is_full)
        yield


class Process:
    """A process whose output is gathered line by line. Killed, with its group, when left."""

    def __init__(
        self, command: Sequence[str], *, directory: Path | None = None, environ: dict[str, str] | None = None
    ) -> None:
        clean = {k: v for k, v in os.environ.items() if not k.startswith("TUNESMITH_")} | ROOMY
        self.lines: list[str] = []
        self.process = subprocess.Popen(
            command, cwd=directory, env=clean | (environ or {}), text=True, process_group=0,
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip
        self._reading = threading.Thread(target=self._read, daemon=True)
        self._reading.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        with self.process.stdout as lines:
            for line in lines:
                self.lines.append(line)

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def said(self) -> str:
        return "".join(self.lines)

    def says(self, *words: str, seconds: float = PATIENCE_SECONDS, times: int = 1) -> str:
        """The line that holds all the words, once it was said so many times."""

        def look() -> str | None:
            is_all = not self._reading.is_alive()
            found = [line for line in list(self.lines) if all(word in line for word in words)]
            if len(found) >= times:
                return found[times - 1]
            assert not is_all, f"ended without {words}; said: {self.said}"
            return None

        return until(look, seconds, saw=lambda: self.said)

    def signal(self, number: int) -> None:
        self.process.send_signal(number)

    def ends(self, seconds: float = PATIENCE_SECONDS) -> int:
        """Its exit code, and all it said has been read."""
        code = until(lambda: (self.process.poll(),) if self.process.poll() is not None else None, seconds,
                     saw=lambda: self.said)[0]  # fmt: skip
        self._reading.join(seconds)
        return code

    def kill(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        self._reading.join(10)

    def __enter__(self):  # type: ignore[no-untyped-def]
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()


class Worker(Process):
    """`tunesmith worker` against a service, with a state directory of its own."""

    def __init__(
        self, url: str, token: str, state: Path, *options: str, directory: Path | None = None,
        environ: dict[str, str] | None = None,
    ) -> None:  # fmt: skip
        command = [sys.executable, "-m", "tunesmith_workers", "--url", url, "--state", str(state)]
        command += ["--cores", "1", *options]
        own = {"TUNESMITH_TOKEN": token, "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
        super().__init__(command, directory=directory, environ=own | (environ or {}))

    def child_pid(self, times: int = 1) -> int:
        """Process id of the trainer that was the `times`-th to get ready."""
        line = self.says("event=trainer_ready", times=times)
        return int(next(part for part in line.split() if part.startswith("pid=")).removeprefix("pid="))


def is_alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state != "Z"  # a zombie has ended; it waits for its parent alone


def planner_of(server: int) -> psutil.Process:
    """The planner process of the server with this process id."""
    return _child(server, "tunesmith_service.planner")


def writer_of(server: int) -> psutil.Process:
    """The process that commits for it."""
    return _child(server, "tunesmith_service.writer_process")


def _child(server: int, module: str) -> psutil.Process:
    (found,) = [c for c in psutil.Process(server).children() if module in c.cmdline()]
    return found


class Server(Process):
    """`tunesmith serve` on SQLite in `home`; started again on the same port after a kill."""

    def __init__(
        self, home: Path, *, port: int | None = None, ttl_seconds: float = 30,
        environ: dict[str, str] | None = None,
    ) -> None:  # fmt: skip
        self.home, self.port, self.ttl_seconds = home, port or free_port(), ttl_seconds
        self.url = f"http://127.0.0.1:{self.port}"
        command = [sys.executable, "-m", "tunesmith_service", "serve", "--home", str(home)]
        command += ["--port", str(self.port), "--ttl-seconds", str(ttl_seconds)]
        super().__init__(command, environ=environ)
        self.says("service.listening", seconds=START_SECONDS)

    def again(self) -> Server:
        return Server(self.home, port=self.port, ttl_seconds=self.ttl_seconds)

    @property
    def worker_token(self) -> str:
        return (self.home / "worker.token").read_text().strip()

    def client(self) -> Client:
        return Client(self.url, (self.home / "operator.token").read_text().strip(), retry_for=120)
