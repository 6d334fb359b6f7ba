"""The supervisor's handle on one trainer child: start it, talk with it, kill it, reap it. No torch here.

The child leads a process group of its own, so that a Ctrl-C in the terminal reaches the supervisor
alone, and so that a kill takes the child's data loaders with it.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import signal
import socket
import sys
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

from tunesmith_workers import messages

START_SECONDS = 300.0  # importing torch from a cold network disk
EXIT_SECONDS = 2.0
LINE_BYTES = 16 * 1024 * 1024
TAIL_LINES = 100

_SECRET = re.compile(
    r"TOKEN|SECRET|PASSWORD|PASSWD|CREDENTIAL|PRIVATE_KEY|ACCESS_KEY|API_?KEY", re.IGNORECASE
)


class ChildStartError(Exception):
    """The child ended before it was ready; the message is its own."""


@dataclass(frozen=True, slots=True)
class Death:
    """A child has ended. `code` as in subprocess: the exit status, or minus the signal's number."""

    code: int
    tail: str  # of what it printed
    lost: str = ""  # which of a gang's ranks ended first

    def __str__(self) -> str:
        if self.lost:
            return self.lost
        if self.code >= 0:
            return f"the trainer exited with status {self.code}"
        name = signal.Signals(-self.code).name
        hint = " (the system kills a process so when memory runs out)" if name == "SIGKILL" else ""
        return f"the trainer was ended by {name}{hint}"


def cleaned(environ: Mapping[str, str]) -> dict[str, str]:
    """An environment without our token or anybody's: tasks are code of many hands.

    By name, since nobody can list what libraries need (LD_LIBRARY_PATH, HF_HOME, proxies).
    """
    return {k: v for k, v in environ.items() if not k.startswith("TUNESMITH_") and not _SECRET.search(k)}


class ChildProcess:
    """A child that has said it is ready. `next` gives what it says; after its death, always the `Death`."""

    _reader: asyncio.StreamReader
    _writer: asyncio.StreamWriter

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self._tail: deque[str] = deque(maxlen=TAIL_LINES)
        self._echo = False
        self._printing = asyncio.create_task(self._copy_prints())
        self._reaping = asyncio.create_task(self._reap())
        self.tasks: dict[str, str] = {}

    @classmethod
    async def start(cls, arguments: Sequence[str], environ: Mapping[str, str]) -> Self:
        """Start `python -m tunesmith_workers.child` and wait until it is ready.

        Raises: ChildStartError with the child's own words.
        """
        ours, theirs = socket.socketpair()
        command = [sys.executable, "-P", "-m", "tunesmith_workers.child", "--fd", str(theirs.fileno())]
        with theirs:
            process = await asyncio.create_subprocess_exec(
                *command, *arguments, pass_fds=[theirs.fileno()], env=dict(environ), process_group=0,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
            )  # fmt: skip
        child = cls(process)
        child._reader, child._writer = await asyncio.open_connection(sock=ours, limit=LINE_BYTES)
        try:
            await asyncio.wait_for(child._await_ready(), START_SECONDS)
        except BaseException:
            await child.kill()
            raise
        return child

    async def _await_ready(self) -> None:
        said = await self.next()
        if isinstance(said, Death):
            raise ChildStartError(said.tail.strip() or str(said))
        if said.get("say") != "ready":
            raise ChildStartError(f"the trainer's first word was {said.get('say')!r}, not 'ready'")
        self._is_ready(said)

    def _is_ready(self, said: Mapping[str, Any]) -> None:
        self.tasks = dict(said["tasks"])
        self._echo = True

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def is_alive(self) -> bool:
        return self._process.returncode is None

    async def say(self, message: Mapping[str, Any]) -> None:
        """Tell it something; to a dead child, nothing happens (its death is what `next` gives)."""
        with contextlib.suppress(ConnectionError):
            self._writer.write(messages.encode(message))
            await self._writer.drain()

    async def next(self) -> dict[str, Any] | Death:
        """The next message, or the death of the child once all it said has been read.

        Raises: ValueError for a line that is no message.
        """
        with contextlib.suppress(ConnectionError):
            if (line := await self._reader.readline()).endswith(b"\n"):
                return messages.decode(line)
        try:
            return await asyncio.wait_for(asyncio.shield(self._reaping), EXIT_SECONDS)
        except TimeoutError:  # it closed its end and goes on: of no use to us
            return await self.kill()

    async def kill(self) -> Death:
        """End the child and all it started, at once. Returns when it is reaped; may be repeated."""
        self._signal_group()
        death = await asyncio.shield(self._reaping)
        await self._hang_up()
        return death

    async def _hang_up(self) -> None:
        self._writer.close()

    def _signal_group(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)

    async def _reap(self) -> Death:
        code = await self._process.wait()
        self._signal_group()  # its data loaders hold devices and our socket's other end
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(asyncio.shield(self._printing), EXIT_SECONDS)
        return Death(code, "".join(self._tail))

    async def _copy_prints(self) -> None:
        """What it prints goes to our stderr once it is ready; the last lines are kept for its obituary."""
        assert self._process.stdout is not None
        while chunk := await self._process.stdout.read(65536):
            text = chunk.decode(errors="replace")
            self._tail.extend(text.splitlines(keepends=True))
            if self._echo:
                sys.stderr.write(text)
                sys.stderr.flush()
