"""Between workers and service: passes requests on, delays, drops and replays some, and notes them all."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import Counter
from collections.abc import Coroutine, Sequence
from dataclasses import dataclass, field
from functools import partial
from random import Random

import httpx
from history import Call, History, end
from tunesmith_service.clock import SECOND

KEPT = 2_000
"""Requests of the past that may be replayed. A new one takes the place of any, so some are from long ago."""

Address = tuple[str, int]

SLACK_US = SECOND // 10
"""Between our clock and the service's, both of this machine."""


@dataclass(slots=True)
class Habits:
    """Shares of requests."""

    drop_request: float = 0.01
    drop_answer: float = 0.01
    slow: float = 0.03
    slow_seconds: float = 3.0
    replay: float = 0.05


@dataclass(slots=True)
class _Request:
    client: str
    head: bytes
    body: bytes
    parsed: httpx.Request


@dataclass
class Proxy:
    """Listens on a port of its own for each server.

    Attributes:
        history: every request that reached us, with what the service said to it.
        counts: replays, drops and delays.
    """

    targets: Sequence[Address]
    random: Random
    habits: Habits = field(default_factory=Habits)
    history: History = field(default_factory=History)
    counts: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        self._servers: list[asyncio.Server] = []
        self._past: list[_Request] = []
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def url(self) -> str:
        """Of all servers, as clients take it."""
        ports = [server.sockets[0].getsockname()[1] for server in self._servers]
        return ",".join(f"http://127.0.0.1:{port}" for port in ports)

    async def start(self) -> None:
        for target in self.targets:
            accept = partial(self._accept, target)
            self._servers.append(await asyncio.start_server(accept, "127.0.0.1", 0, limit=2**22))

    async def stop(self) -> None:
        """Nothing comes through any more; what is under way is given up."""
        for server in self._servers:
            server.close()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def calm_down(self) -> None:
        self.habits = Habits(0.0, 0.0, 0.0, 0.0, 0.0)

    def _accept(self, target: Address, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._start(self._serve(target, reader, writer))

    async def _serve(
        self, target: Address, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        try:
            with contextlib.suppress(OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
                request = await _read(reader)
                answer = await self._pass_on(request, target)
                if answer is not None:
                    writer.write(answer)
                    await writer.drain()
        finally:
            writer.close()

    async def _pass_on(self, request: _Request, target: Address) -> bytes | None:
        habits = self.habits
        if self._happens(habits.slow, "requests delayed"):
            await asyncio.sleep(self.random.uniform(0.0, habits.slow_seconds))
        call = self._begin(request)
        self._keep(request)
        if self._happens(habits.replay, "requests replayed"):
            self._start(self._replay(self.random.choice(self._past)))
        if self._happens(habits.drop_request, "requests dropped"):
            return None
        answer = await self._exchange(request, call, target)
        return None if self._happens(habits.drop_answer, "requests dropped") else answer

    def _keep(self, request: _Request) -> None:
        if len(self._past) < KEPT:
            self._past.append(request)
        else:
            self._past[self.random.randrange(KEPT)] = request

    async def _replay(self, request: _Request) -> None:
        """At any server, whichever had it."""
        await asyncio.sleep(self.random.expovariate(1.0))
        target = self.random.choice(self.targets)
        copy = _Request(f"copy of {request.client}", request.head, request.body, request.parsed)
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            await self._exchange(copy, self._begin(copy), target)

    def _begin(self, request: _Request) -> Call:
        now = time.time()
        call = self.history.begin(request.client, request.parsed, request.body, now)
        call.served_us = round(now * SECOND) - SLACK_US
        return call

    async def _exchange(self, request: _Request, call: Call, target: Address) -> bytes:
        reader, writer = await asyncio.open_connection(*target)
        try:
            writer.write(request.head + request.body)
            answer = await reader.read(-1)
        finally:
            writer.close()
        head, found, body = answer.partition(b"\r\n\r\n")
        if not found:
            raise ConnectionResetError
        end(call, int(head.split(b" ", 2)[1]), body, time.time())
        return answer

    def _happens(self, share: float, what: str) -> bool:
        happens = self.random.random() < share
        self.counts[what] += happens
        return happens

    def _start(self, work: Coroutine[object, object, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


async def _read(reader: asyncio.StreamReader) -> _Request:
    head = await reader.readuntil(b"\r\n\r\n")
    first, *lines = head[:-4].split(b"\r\n")
    method, target, _ = first.split(b" ", 2)
    headers = [tuple(part.strip() for part in line.split(b":", 1)) for line in lines]
    length = next((int(v) for k, v in headers if k.lower() == b"content-length"), 0)
    body = await reader.readexactly(length) if length else b""
    kept = [(k, v) for k, v in headers if k.lower() not in (b"connection", b"accept-encoding")]
    lines_ = [
        b" ".join((method, target, b"HTTP/1.1")),
        *(k + b": " + v for k, v in kept),
        b"Connection: close",
    ]
    parsed = httpx.Request(method.decode(), f"http://x{target.decode()}", headers=kept)
    client = parsed.headers.get("user-agent", "")
    return _Request(client, b"\r\n".join(lines_) + b"\r\n\r\n", body, parsed)
