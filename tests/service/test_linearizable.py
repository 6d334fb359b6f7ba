"""What 32 clients of a real server saw, with answers lost, leases left to expire and zombies writing on."""

from __future__ import annotations

import asyncio
import os
import secrets
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random
from typing import Any

import httpx
from history import Call, History, Recording
from invariants import look, violations
from linearizability import (
    Op,
    Queue,
    State,
    TrialState,
    check,
    queue_histories,
    queue_step,
    trial_histories,
    trial_step,
)
from processes import until
from sqlalchemy import Engine, select
from tunesmith_service import db, tables
from tunesmith_service.wire import LEASE_HEADER

OPERATIONS = 20_000 if os.environ.get("CI") == "true" else 2_000
CLIENTS = 32
TRIALS = OPERATIONS // 25
STUDIES = max(TRIALS // 20, 1)
TASK, DIGEST = "light", "d1" * 32


class Lossy(httpx.AsyncBaseTransport):
    """Some answers never come, although the request was carried out."""

    def __init__(self, random: Random) -> None:
        self._inner, self._random = httpx.AsyncHTTPTransport(), random

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        response = await self._inner.handle_async_request(request)
        if self._random.random() < 0.02:
            await response.aread()
            raise httpx.ReadError("the answer was lost", request=request)
        return response

    async def aclose(self) -> None:
        await self._inner.aclose()


def _ids() -> dict[str, str]:
    return {name: secrets.token_hex(16) for name in ("worker_id", "boot_id", "slot_id")}


@dataclass
class Worker:
    """One client: takes trials, and does with its leases whatever comes to its mind."""

    url: str
    token: str
    history: History
    random: Random
    old: list[tuple[int, dict[str, str]]] = field(default_factory=list)  # leases that may be over

    def __post_init__(self) -> None:
        self.ids = _ids()
        name = f"client {self.ids['worker_id'][:4]}"
        line = Recording(Lossy(self.random), self.history, name, time.monotonic)
        bearer = {"Authorization": f"Bearer {self.token}"}
        self.http = httpx.AsyncClient(
            transport=line, base_url=f"{self.url}/api/v1/", headers=bearer, timeout=30
        )

    async def send(self, method: str, path: str, body: Any, lease: dict[str, str] | None = None) -> Any:
        """The reply, or None if it was refused or never came."""
        try:
            response = await self.http.request(method, path, json=body, headers=lease)
        except httpx.TransportError:
            return None
        return response.json() if response.is_success else None

    async def start_anew(self) -> None:
        """As another worker: a slot whose lease was left gets nothing while that runs, whatever waits."""
        self.ids = _ids()
        await self.register()

    async def register(self) -> None:
        slot = {"slot_id": self.ids["slot_id"], "devices": ["cpu"]}
        body = {"starts": 1, "name": "w", "version": "0", "tasks": {TASK: DIGEST}, "slots": [slot]}
        body |= {name: self.ids[name] for name in ("worker_id", "boot_id")}
        while await self.send("PUT", f"workers/{self.ids['worker_id']}", body) is None:
            pass

    async def claim(self) -> tuple[int, dict[str, str]] | None:
        secret = secrets.token_hex(16)
        body = {**self.ids, "claim_id": secrets.token_hex(16), "secret": secret, "wait_seconds": 0}
        reply = await self.send("POST", "claims", body) or await self.send("POST", "claims", body)
        if reply is None:
            await self.start_anew()  # it may hold a lease that it does not know
        if reply is None or reply["grant"] is None:
            return None
        grant = reply["grant"]
        lease = (grant["trial_id"], {LEASE_HEADER: f"{grant['incarnation']}.{grant['attempt']}.{secret}"})
        self.old.append(lease)
        return lease

    async def work(self, is_over: Callable[[], bool]) -> None:
        await self.register()
        while not is_over():
            lease = await self.claim()
            if lease is not None:
                await self.hold(lease)
            elif self.old:
                await self.write(self.random.choice(self.old), self.random.randint(1, 3))

    async def hold(self, lease: tuple[int, dict[str, str]]) -> None:
        for seq in range(1, self.random.randint(2, 8)):
            await self.write(lease, seq)
            if self.random.random() < 0.3:
                await self.write(self.random.choice(self.old), self.random.randint(1, 3))
        if self.random.random() < 0.1:
            await self.start_anew()  # the lease is left to expire
            return
        await self.end(lease)
        if self.random.random() < 0.2:
            await self.end(lease)

    async def write(self, lease: tuple[int, dict[str, str]], seq: int) -> None:
        trial_id, header = lease
        if self.random.random() < 0.3:
            await self.send("POST", f"leases/{trial_id}/heartbeat", {}, header)
        point = {"step": seq, "metrics": {"val/loss": 1.0 / seq}}
        await self.send("POST", f"leases/{trial_id}/reports", {"seq": seq, "points": [point]}, header)

    async def end(self, lease: tuple[int, dict[str, str]]) -> None:
        trial_id, header = lease
        if self.random.random() < 0.7:
            body = {"state": "complete", "stop_reason": "budget"}
            await self.send("POST", f"leases/{trial_id}/finish", body, header)
        else:
            await self.send("POST", f"leases/{trial_id}/release", {"cause": "preempted"}, header)


async def play(url: str, worker_token: str, operator_token: str) -> History:
    history, random = History(), Random(OPERATIONS)
    people = Worker(url, operator_token, history, Random(1))
    stage = {"kind": "random", "epochs": 3, "trials": 1}
    for i in range(STUDIES):
        spec = {
            "name": f"linear-{i}",
            "task": TASK,
            "space": {"lr": {"low": 0.1, "high": 1.0}},
            "stages": [stage],
        }
        while await people.send("POST", "studies", spec) is None and i not in _numbers(history):
            pass
    workers = [Worker(url, worker_token, history, Random(random.random())) for _ in range(CLIENTS)]
    is_over = lambda: len(history.calls) >= OPERATIONS  # noqa: E731

    async def ask() -> None:
        while not is_over():
            study = random.randrange(STUDIES)
            if random.random() < 0.8:
                params = [{"lr": 0.5}] * random.randint(1, 3)
                await people.send("POST", f"studies/linear-{study}/trials", {"params": params})
            else:
                await people.send(
                    "POST", f"studies/linear-{study}/trials/{random.randrange(10)}/cancel", None
                )
            await asyncio.sleep(0)

    await asyncio.gather(ask(), *(w.work(is_over) for w in workers))
    for one in (people, *workers):
        await one.http.aclose()
    return history


def _numbers(history: History) -> set[int]:
    return {int(c.body["name"].rpartition("-")[2]) for c in history.of("studies") if c.refusal == "conflict"}


def judge(histories: dict[int, list[Op]], start: State, step: Any) -> Counter[str]:
    verdicts: Counter[str] = Counter()
    for ops in histories.values():
        verdicts[check(ops, start, step)] += 1
    return verdicts


def test_what_clients_see_is_linearizable(serve: Any) -> None:
    server = serve("--ttl-seconds", "2", "--sweep-seconds", "1", "--no-planner")
    history = asyncio.run(play(server.url, server.token("worker"), server.token("operator")))
    engine = db.open_engine(f"sqlite:///{server.home / 'tunesmith.db'}")
    until(lambda: not _running(engine), 600)  # what was left expires
    seen = look(engine, calls=history.calls, ttl_us=2_000_000)
    engine.dispose()
    assert violations(seen) == []
    trials = trial_histories(history.calls, seen.rows)
    assert judge(trials, TrialState(), trial_step) == {"linearizable": len(trials)}
    queues = queue_histories(history.calls, seen.rows)
    assert judge(queues, Queue(), queue_step) == {"linearizable": len(queues)}
    endings = Counter(a.ending for a in seen.rows["attempts"])
    assert endings["expired"], "no lease was left to expire"
    assert endings["release"], "no trial was handed back"
    assert any(c.maybe for c in history.calls)
    assert _late(history.calls), "no zombie wrote"


def _running(engine: Engine) -> int:
    with engine.connect() as conn:
        return sum(conn.execute(select(tables.studies.c.running)).scalars())


def _late(calls: list[Call]) -> int:
    return sum(c.refusal in ("lease_lost", "already_final") for c in calls)
