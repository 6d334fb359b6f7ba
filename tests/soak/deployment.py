"""What a soak starts, kills and starts again: the service, light workers, a real worker with its trainer."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import httpx
import psutil
from processes import Process, Worker, free_port

TESTS = Path(__file__).parents[1]
READY_SECONDS = 120.0
LOOK_SECONDS = 0.05
ROOM = "1000000"
TASK = "tiny"
TASK_FILE = """
import time, torch
from tunesmith_workers.loop import Trial, train

@train("tiny")
def tiny(trial: Trial) -> None:
    parts = {"model": (model := torch.nn.Linear(1, 1)), "optimizer": torch.optim.SGD(model.parameters())}
    for epoch in range(trial.restore(**parts), trial.epochs):
        time.sleep(0.3)
        trial.report(epoch + 1, {"val/loss": 1.0 / (epoch + 1) + trial.params["lr"]})
        trial.snapshot(**parts)
        if trial.should_stop():
            return
"""


class Service:
    """`tunesmith serve`, killed and started again on one port.

    Args:
        url: of a PostgreSQL; empty: SQLite in the home.
        blobs: where another server on that database keeps its bytes, if there is one.

    Attributes:
        ready_seconds: from each start to the first `ready`.
        memory: (seconds since its start, resident bytes) of each process that was started, in order.
        said: what all processes said before the one that runs now.
    """

    def __init__(
        self, home: Path, url: str, ttl_seconds: float, sweep_seconds: float, blobs: Path | None = None
    ) -> None:
        self.home, self.port = home, free_port()
        home.mkdir()
        if blobs is not None:
            (home / "blobs").symlink_to(blobs)
        self._command = [
            sys.executable, "-m", "tunesmith_service", "serve", "--home", str(home), "--port", str(self.port),
            "--ttl-seconds", str(ttl_seconds), "--sweep-seconds", str(sweep_seconds), "--reserve-bytes", "0",
        ]  # fmt: skip
        for flag in ("--person-rate", "--person-burst", "--slot-rate", "--slot-burst"):
            self._command += [flag, ROOM]
        self._command += ["--database-url", url] if url else []
        self.ready_seconds: list[float] = []
        self.memory: list[list[tuple[float, int]]] = []
        self.said: list[str] = []
        self._process: Process | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def process(self) -> Process:
        assert self._process is not None, "it has not been started"
        return self._process

    async def start(self) -> None:
        """Returns once it is ready. Raises: TimeoutError with what it said."""
        self._started = time.monotonic()
        self._process = Process(self._command, directory=self.home)
        self.memory.append([])
        self.ready_seconds.append(await self.until_ready())

    async def until_ready(self) -> float:
        """How many seconds that took. Raises: TimeoutError with what it said."""
        began = time.monotonic()
        async with httpx.AsyncClient(trust_env=False) as client:
            while (took := time.monotonic() - began) < READY_SECONDS:
                with contextlib.suppress(httpx.TransportError):
                    if (await client.get(f"{self.url}/readyz", timeout=5)).status_code == 200:
                        return time.monotonic() - began
                await asyncio.sleep(LOOK_SECONDS)
        raise TimeoutError(f"the service is not ready after {took:.0f} s: {self.process.said[-3000:]}")

    def end(self, how: signal.Signals) -> None:
        """By SIGKILL or SIGTERM; returns once it is gone."""
        if self._process is not None:
            self._process.signal(how)
            self._process.ends(60)
            self.said += self._process.lines

    def kill_part(self, part_of: Callable[[int], psutil.Process]) -> bool:
        """Its planner or its writer. Whether there was one."""
        with contextlib.suppress(psutil.NoSuchProcess, ValueError):
            part_of(self.process.pid).kill()
            return True
        return False

    def look_at_memory(self) -> None:
        with contextlib.suppress(psutil.NoSuchProcess):
            resident = psutil.Process(self.process.pid).memory_info().rss
            self.memory[-1].append((time.monotonic() - self._started, resident))

    def token(self, role: str) -> str:
        return (self.home / f"{role}.token").read_text().strip()


class Crowd:
    """The light workers, a process each.

    Args:
        root: where they leave their journals.
        epoch_seconds: what an epoch of theirs takes, on average.
    """

    def __init__(self, root: Path, epoch_seconds: float) -> None:
        self.journals = root / "journals"
        self.journals.mkdir()
        self._epoch_seconds = epoch_seconds
        self._complaints = root / "workers.log"
        self._pids: dict[int, int] = {}
        self._starts = 0
        environ = {**os.environ, "PYTHONPATH": _path()}
        with self._complaints.open("w") as complaints:
            self._nursery = subprocess.Popen(
                [sys.executable, "-m", "soak.nursery"], cwd=TESTS, env=environ, text=True, bufsize=1,
                process_group=0, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=complaints,
            )  # fmt: skip

    def start(self, number: int, url: str, token: str) -> None:
        """Worker `number`, which must not run."""
        assert self._nursery.stdin is not None
        assert self._nursery.stdout is not None
        self._starts += 1
        journal = self.journals / f"light-{number}.{self._starts}.jsonl"
        arguments = [url, token, number, self._epoch_seconds, str(journal)]
        self._nursery.stdin.write(json.dumps(arguments) + "\n")
        self._pids[number] = int(self._nursery.stdout.readline())

    def signal(self, number: int, what: signal.Signals) -> None:
        """One that has ended by itself is found in `complaints`."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self._pids[number], what)

    @property
    def complaints(self) -> str:
        """Why workers ended that nobody killed."""
        return self._complaints.read_text()

    def close(self) -> None:
        """With all workers, which are of the nursery's group."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._nursery.pid, signal.SIGKILL)
        self._nursery.wait()
        for pipe in (self._nursery.stdin, self._nursery.stdout):
            assert pipe is not None
            with contextlib.suppress(BrokenPipeError):
                pipe.close()


class Trainers:
    """A real worker with a real child, on a task of a second.

    Attributes:
        said: what all supervisors said before the one that runs now.
    """

    def __init__(self, root: Path) -> None:
        self._state = root / "worker"
        self._tasks = root / "tasks.py"
        self._tasks.write_text(TASK_FILE)
        self._process: Worker | None = None
        self.said: list[str] = []

    def start(self, url: str, token: str) -> None:
        self._process = Worker(url, token, self._state, "--tasks", str(self._tasks))

    def end(self, how: signal.Signals) -> None:
        """By SIGKILL or SIGTERM; returns once it is gone."""
        if self._process is not None:
            self._process.signal(how)
            self._process.ends(60)
            self.said += self._process.lines

    def signal(self, what: signal.Signals) -> None:
        assert self._process is not None
        self._process.signal(what)

    def has_ended(self) -> bool:
        """By itself, as when its first trainer is killed; a service manager starts it again."""
        return self._process is not None and self._process.process.poll() is not None

    def children(self) -> list[psutil.Process]:
        """The trainers that run now."""
        assert self._process is not None
        with contextlib.suppress(psutil.NoSuchProcess):
            return psutil.Process(self._process.pid).children()
        return []


def to_all(processes: list[psutil.Process], do: Callable[[psutil.Process], None]) -> bool:
    """Whether there was any."""
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            do(process)
    return bool(processes)


def _path() -> str:
    return os.pathsep.join([str(TESTS), *filter(None, [os.environ.get("PYTHONPATH")])])


class Root:
    """A directory of its own for everything, which goes with it."""

    def __init__(self) -> None:
        self.path = Path(tempfile.mkdtemp(prefix="tunesmith-soak-"))

    def __enter__(self) -> Path:
        return self.path

    def __exit__(self, *_: object) -> None:
        shutil.rmtree(self.path, ignore_errors=True)
