"""Closed loops of light workers, as many as connections, in a process of their own: the load of `cycles.py`.

Each connection is an asyncio protocol that claims a trial, sends one report and finishes it, again and
again; it reads no more of an answer than its length and, of a claim's, the lease. So one process asks for
thousands of requests a second, and what is measured is the server.
"""

from __future__ import annotations

import asyncio
import json
import random
import secrets
import time
from collections.abc import Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from multiprocessing import get_context
from typing import Any

from flood import read_answer, request
from light import DIGEST, TASK

KINDS = ("claim", "report", "heartbeat", "finish")
FINISH = {"state": "complete", "stop_reason": "budget"}


@dataclass(frozen=True)
class Load:
    """What is asked of whom.

    Attributes:
        workers: with a connection and a slot each.
        task: which they serve.
        reports: of each trial.
        points: of each report.
        beats: whether each report is followed by a heartbeat.
        wait_seconds: a claim waits so long for a trial, and is made again; 0: one that gets none is a fault.
        pause_seconds: before each request, on average; 0: as fast as answers come.
        joined: whether a trial's last report and the next claim come with its finish, as of our workers.
    """

    port: int
    token: str
    seconds: float
    workers: int = 64
    task: str = TASK
    reports: int = 1
    points: int = 1
    beats: bool = False
    wait_seconds: float = 0.0
    pause_seconds: float = 0.0
    joined: bool = False


@dataclass
class Done:
    """What came of it.

    Attributes:
        took: seconds of each request, by kind.
        refused: what went wrong; such a worker ends.
    """

    seconds: float = 0.0
    took: dict[str, list[float]] = field(default_factory=lambda: {kind: [] for kind in KINDS})
    refused: list[str] = field(default_factory=list)

    @property
    def cycles_per_second(self) -> float:
        return len(self.took["finish"]) / self.seconds

    @property
    def reports_per_second(self) -> float:
        return len(self.took["report"]) / self.seconds


class Worker(asyncio.Protocol):
    """Works until `until`; then `ended` is set."""

    def __init__(self, load: Load, done: Done, until: float) -> None:
        self._load, self._done, self._until = load, done, until
        self._ids = {name: secrets.token_hex(16) for name in ("worker_id", "boot_id", "slot_id")}
        self._secret = secrets.token_hex(16)
        self._received = b""
        self._doing = "register"
        self._trial, self._lease = 0, ""
        self._seq = 0
        self.ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: Any) -> None:
        self._transport = transport
        slot = {"slot_id": self._ids["slot_id"], "devices": ["cpu"]}
        body = {
            "worker_id": self._ids["worker_id"], "boot_id": self._ids["boot_id"], "starts": 1,
            "name": "light", "version": "0", "tasks": {self._load.task: DIGEST}, "slots": [slot],
        }  # fmt: skip
        self._send(f"PUT /api/v1/workers/{self._ids['worker_id']}", body)

    def data_received(self, data: bytes) -> None:
        self._received += data
        if (answer := read_answer(self._received)) is None:
            return
        self._received = b""
        status, body = answer
        if status != 200:
            self._done.refused.append(f"{self._doing}: {status} {body[:300].decode()}")
            self._end()
        else:
            self._answered(body)

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.ended.done():
            self._done.refused.append(f"{self._doing}: connection lost {exc}")
            self._end()

    def _answered(self, body: bytes) -> None:
        now, doing = time.perf_counter(), self._doing
        if doing != "register":
            self._done.took[doing].append(now - self._sent)
        is_over = now >= self._until
        if doing == "finish" and self._load.joined and not is_over:
            self._then(json.loads(body)["claim"]["grant"])
        elif doing in ("register", "finish"):
            if is_over:
                self._end()
            else:
                self._claim()
        elif doing == "claim":
            self._then(json.loads(body)["grant"])
        elif doing == "report" and self._load.beats:
            self._doing = "heartbeat"
            self._send(f"POST /api/v1/leases/{self._trial}/heartbeat", {})
        else:
            self._go_on(is_over)

    def _go_on(self, is_over: bool) -> None:
        """With the trial: its next report, or its end."""
        if self._seq + self._load.joined < self._load.reports and not is_over:
            self._doing = "report"
            self._send(f"POST /api/v1/leases/{self._trial}/reports", self._next_report())
            return
        self._doing = "finish"
        beside = {"report": self._next_report(), "claim": self._next_claim()} if self._load.joined else {}
        self._send(f"POST /api/v1/leases/{self._trial}/finish", FINISH | beside)

    def _claim(self) -> None:
        self._doing = "claim"
        self._send("POST /api/v1/claims", self._next_claim() | {"wait_seconds": self._load.wait_seconds})

    def _next_claim(self) -> dict[str, Any]:
        return {**self._ids, "claim_id": secrets.token_hex(16), "secret": self._secret}

    def _then(self, grant: Mapping[str, Any] | None) -> None:
        """What a claim was answered."""
        if grant is not None:
            self._trial = grant["trial_id"]
            self._lease = f"Tunesmith-Lease: {grant['incarnation']}.{grant['attempt']}.{self._secret}\r\n"
            self._seq = 0
            self._go_on(is_over=False)
        elif self._load.wait_seconds and time.perf_counter() < self._until:
            self._claim()
        else:
            self._done.refused += [] if self._load.wait_seconds else ["claim: there was no trial"]
            self._end()

    def _next_report(self) -> dict[str, Any]:
        first = self._seq * self._load.points + 1
        self._seq += 1
        steps = range(first, first + self._load.points)
        points = [{"step": step, "metrics": {"val/loss": 0.5}} for step in steps]
        return {"seq": self._seq, "points": points}

    def _send(self, line: str, body: Mapping[str, Any]) -> None:
        made = request(self._load.port, self._load.token, line, body, self._lease)
        if self._load.pause_seconds:
            pause = random.expovariate(1 / self._load.pause_seconds)
            asyncio.get_running_loop().call_later(pause, self._write, made)
        else:
            self._write(made)

    def _write(self, made: bytes) -> None:
        self._sent = time.perf_counter()
        self._transport.write(made)

    def _end(self) -> None:
        if not self.ended.done():
            self.ended.set_result(None)
        self._transport.close()


async def _work(load: Load) -> Done:
    done, began = Done(), time.perf_counter()
    loop = asyncio.get_running_loop()
    made = [
        await loop.create_connection(lambda: Worker(load, done, began + load.seconds), "127.0.0.1", load.port)
        for _ in range(load.workers)
    ]
    await asyncio.gather(*(worker.ended for _, worker in made))
    done.seconds = time.perf_counter() - began
    return done


def _run(load: Load) -> Done:
    return asyncio.run(_work(load))


def work(load: Load) -> Done:
    """Raises: RuntimeError with what was refused."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        done = pool.submit(_run, load).result()
    if done.refused:
        raise RuntimeError(f"{len(done.refused)} were refused, the first {done.refused[0]}")
    return done
