"""Requests at a rate that does not wait for answers: the load of `overload.py`, a process of its own.

Each connection is an asyncio protocol that writes requests made beforehand and reads no more of an answer
than its status and its length, so that a process sends thousands a second. A connection with a lease sends
its next report only once the last was accepted, as reports are numbered; what was refused it sends again when
its turn comes, whatever Retry-After said. A request that finds all connections of its kind busy was not sent,
and is counted as such.
"""

from __future__ import annotations

import asyncio
import json
import secrets
import time
from collections import Counter, deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from light import TASK

KINDS = ("report", "claim", "dashboard", "create")


@dataclass(frozen=True)
class Target:
    """Whom to flood, and as whom: the tokens, the leases as (trial id, header, next report), and a slot."""

    port: int
    operator: str
    worker: str
    leases: Sequence[tuple[int, str, int]]
    slot: Mapping[str, str]


@dataclass
class Counts:
    """Answers by kind and status; `accepted` are reports that were new."""

    answers: Counter[tuple[str, int]] = field(default_factory=Counter)
    busy: Counter[str] = field(default_factory=Counter)
    seconds: float = 0.0
    late_seconds: float = 0.0  # how far the generator fell behind its own clock


def read_answer(received: bytes) -> tuple[int, bytes] | None:
    """Status and body of an answer; None until all of it is there."""
    head, found, body = received.partition(b"\r\n\r\n")
    length = head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0]
    return (int(head[9:12]), body) if found and len(body) >= int(length or 0) else None


class Connection(asyncio.Protocol):
    """One at a time, on a connection that is kept open."""

    kind = ""

    def __init__(self, target: Target, counts: Counts, idle: deque[Connection]) -> None:
        self.target, self.counts, self.idle = target, counts, idle
        self._received = b""

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        self.idle.append(self)

    def send(self) -> None:
        self.transport.write(self.request())

    def request(self) -> bytes:
        raise NotImplementedError

    def answered(self, status: int) -> None:
        self.counts.answers[self.kind, status] += 1
        self.idle.append(self)

    def data_received(self, data: bytes) -> None:
        self._received += data
        if answer := read_answer(self._received):
            self._received = b""
            self.answered(answer[0])

    def connection_lost(self, exc: Exception | None) -> None:
        if self in self.idle:
            self.idle.remove(self)


def request(port: int, token: str, line: str, body: Any = None, more: str = "") -> bytes:
    content = b"" if body is None else json.dumps(body).encode()
    head = f"{line} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nAuthorization: Bearer {token}\r\n{more}"
    if body is not None:
        head += f"Content-Type: application/json\r\nContent-Length: {len(content)}\r\n"
    return head.encode() + b"\r\n" + content


class Reports(Connection):
    kind = "report"

    def __init__(self, lease: tuple[int, str, int], *more: Any) -> None:
        super().__init__(*more)
        self._trial, self._header, self._seq = lease
        self._made = b""

    def request(self) -> bytes:
        if not self._made:
            report = {"seq": self._seq, "points": [{"step": self._seq, "metrics": {"val/loss": 0.5}}]}
            line = f"POST /api/v1/leases/{self._trial}/reports"
            lease = f"Tunesmith-Lease: {self._header}\r\n"
            self._made = request(self.target.port, self.target.worker, line, report, lease)
        return self._made

    def answered(self, status: int) -> None:
        if status == 200:
            self._seq, self._made = self._seq + 1, b""
        super().answered(status)


class Claims(Connection):
    kind = "claim"

    def request(self) -> bytes:
        asked = {**self.target.slot, "claim_id": secrets.token_hex(16), "secret": "0" * 32}
        return request(self.target.port, self.target.worker, "POST /api/v1/claims", asked)


class Dashboard(Connection):
    """What a study's page shows, as the API gives it."""

    kind = "dashboard"

    def request(self) -> bytes:
        return request(self.target.port, self.target.operator, "GET /api/v1/studies/ready")


class Creates(Connection):
    kind = "create"

    def request(self) -> bytes:
        stage = {"kind": "coarse_grid", "epochs": 1, "axes": {"lr": 1}}
        space = {"lr": {"low": 0.001, "high": 1.0, "log": True}}
        spec = {"name": secrets.token_hex(8), "task": TASK, "space": space, "stages": [stage]}
        return request(self.target.port, self.target.operator, "POST /api/v1/studies", spec)


class Flood:
    """All connections of one process."""

    def __init__(self, target: Target, counts: Counts) -> None:
        self._target, self.counts = target, counts
        self.idle: dict[str, deque[Connection]] = {kind: deque() for kind in KINDS}

    async def connect(self, others: int) -> None:
        loop, port = asyncio.get_running_loop(), self._target.port
        for lease in self._target.leases:
            made = lambda lease=lease: Reports(lease, self._target, self.counts, self.idle["report"])  # noqa: E731
            await loop.create_connection(made, "127.0.0.1", port)
        for kind in (Claims, Dashboard, Creates):
            for _ in range(others):
                made = lambda kind=kind: kind(self._target, self.counts, self.idle[kind.kind])  # noqa: E731
                await loop.create_connection(made, "127.0.0.1", port)

    def send(self, kind: str) -> None:
        if not self.idle[kind]:
            self.counts.busy[kind] += 1
            return
        connection = self.idle[kind].popleft()
        if connection.transport.is_closing():
            self.counts.busy[kind] += 1
            return
        connection.send()

    async def run(self, rate: float, shares: Mapping[str, float], seconds: float) -> None:
        """Open loop: `rate` requests a second in these shares."""
        pattern = _pattern(shares)
        started, sent = time.perf_counter(), 0
        while (now := time.perf_counter() - started) < seconds:
            due = int(now * rate)
            self.counts.late_seconds = max(self.counts.late_seconds, (due - sent) / rate)
            for n in range(sent, due):
                self.send(pattern[n % len(pattern)])
            sent = due
            await asyncio.sleep(0.001)
        self.counts.seconds = seconds

    async def closed(self, connections: int, seconds: float) -> None:
        """Closed loop: so many connections report, each as soon as its last was answered."""
        until = time.perf_counter() + seconds
        while time.perf_counter() < until:
            while self.idle["report"]:
                self.send("report")
            await asyncio.sleep(0)
        self.counts.seconds = seconds


def _pattern(shares: Mapping[str, float], length: int = 100) -> list[str]:
    """Kinds in these shares, well mixed."""
    listed = [kind for kind, share in shares.items() for _ in range(round(share * length))]
    return [listed[(n * 37) % len(listed)] for n in range(len(listed))]


def flood(target: Target, plan: Mapping[str, Any]) -> Counts:
    """Runs in a process of its own. `plan` has `seconds`, and `rate` and `shares` for an open loop."""
    counts = Counts()

    async def main() -> None:
        load = Flood(target, counts)
        if "rate" in plan:
            await load.connect(plan["others"])
            await load.run(plan["rate"], plan["shares"], plan["seconds"])
        else:
            await load.connect(0)
            await load.closed(len(target.leases), plan["seconds"])

    asyncio.run(main())
    return counts
