"""What people do meanwhile: they create studies, queue, cancel and retry trials, pause, drain and stop."""

from __future__ import annotations

import asyncio
from random import Random
from typing import TYPE_CHECKING, Any

import httpx
from sqlalchemy import Engine, bindparam, select
from tunesmith_service import db, tables
from tunesmith_service.clock import SECOND

from simulation.network import Line
from simulation.trainer import TASK
from simulation.worker import URL

if TYPE_CHECKING:
    from simulation.run import World

SPACE = {"lr": {"low": 1e-3, "high": 1.0, "log": True}}
STAGES: tuple[dict[str, Any], ...] = (
    {"kind": "coarse_grid", "epochs": 3, "axes": {"lr": 3}},
    {"kind": "random", "epochs": 3, "trials": 4},
    {"kind": "random", "epochs": 4, "trials": 5, "pruner": {"kind": "median", "n_startup_trials": 1}},
    {"kind": "halving", "epochs": 4, "trials": 4, "keep": 2, "rungs": [1, 2], "rounds": 0},
    {"kind": "sampler", "epochs": 2, "trials": 6, "sampler": {"kind": "tpe", "n_startup_trials": 2}},
)
TRIES = 8
OVERDUE = select(tables.trials.c.id, tables.trials.c.attempt).where(
    tables.trials.c.state == "running", tables.trials.c.lease_expires_us < bindparam("before_us")
)


class People:
    def __init__(self, world: World, random: Random) -> None:
        self._world, self._random = world, random
        self.names: list[str] = []
        self._engine: Engine | None = None

    async def create_studies(self) -> None:
        for i in range(self._random.choice((1, 1, 2))):
            await self.create_study(f"study-{i}")

    async def create_study(self, name: str) -> None:
        stages = self._random.sample(STAGES, self._random.choice((1, 1, 2)))
        limits: dict[str, Any] = {}
        if self._random.random() < 0.5:
            limits["max_concurrent"] = self._random.choice((1, 2, 3))
        if self._random.random() < 0.3:
            limits["max_trials"] = self._random.choice((3, 6))
        spec = {
            "name": name, "task": TASK, "space": SPACE, "limits": limits,
            "stages": [{**s, "name": f"{s['kind']}-{i}"} for i, s in enumerate(stages)],
            "retries": self._random.choice((0, 2)), "seed": self._random.randrange(1000),
            "fresh_wait_seconds": self._random.choice((0.0, 0.25, 30.0)),
        }  # fmt: skip
        self.names.append(name)
        await self.ask("POST", "studies", spec)

    async def something(self) -> None:
        """One wish of somebody's, which may be refused."""
        study = self._random.choice(self.names)
        trial = self._random.randrange(8)
        match self._random.randrange(8):
            case 0:
                lr = self._random.choice((0.01, 0.1))
                await self.ask("POST", f"studies/{study}/trials", {"params": [{"lr": lr}]})
            case 1:
                await self.ask("POST", f"studies/{study}/trials/{trial}/cancel")
            case 2:
                await self.ask("POST", f"studies/{study}/trials/{trial}/retry")
            case 3:
                await self.ask("POST", f"studies/{study}/trials/{trial}/prune")
            case 4:
                await self.ask("POST", f"studies/{study}/pause")
                await asyncio.sleep(self._random.uniform(1.0, 40.0))
                await self.ask("POST", f"studies/{study}/resume")
            case 5 | 6:
                worker = await self._some_worker()
                if worker:
                    await self.ask("POST", f"workers/{worker}/drain")
                    await asyncio.sleep(self._random.uniform(1.0, 40.0))
                    await self.ask("POST", f"workers/{worker}/undrain")
            case _:
                if self._random.random() < 0.1:
                    await self.ask("POST", f"studies/{study}/stop")

    async def set_right(self) -> None:
        """Undo what would keep trials from being run."""
        for study in self.names:
            await self.ask("POST", f"studies/{study}/resume")
        for worker in self._workers():
            await self.ask("POST", f"workers/{worker}/undrain")

    def all_is_done(self) -> bool:
        open_ = select(tables.studies.c.id).where(tables.studies.c.state.in_(("active", "paused")))
        return not self.read(open_)

    def overdue(self, seconds: float) -> list[str]:
        """A sentence for each trial that runs although its lease ran out so long ago."""
        before_us = self._world.host.now_us() - round(seconds * SECOND)
        return [
            f"trial id {row.id} was running under attempt {row.attempt} two ticks after its lease had run out"
            for row in self.read(OVERDUE, before_us=before_us)
        ]

    async def ask(self, method: str, path: str, body: Any = None) -> httpx.Response | None:
        """Send it until it is answered, at most so many times; what people create carries one key for all."""
        token = self._world.host.settings.operator_token_file.read_text().strip()
        key = f"{self._random.getrandbits(64):x}"
        headers = {"Authorization": f"Bearer {token}", "Idempotency-Key": key}
        line = Line(self._world.network, "people")
        async with httpx.AsyncClient(transport=line, base_url=f"{URL}/api/v1/", headers=headers) as client:
            for n in range(TRIES):
                try:
                    response = await client.request(method, path, json=body, timeout=10)
                except httpx.TransportError:
                    response = None
                if response is not None and response.status_code < 500 and response.status_code != 429:
                    return response
                await asyncio.sleep(self._random.uniform(0.5, 2.0**n))
        return None

    async def _some_worker(self) -> str | None:
        workers = self._workers()
        return self._random.choice(workers) if workers else None

    def _workers(self) -> list[str]:
        return sorted(row.id for row in self.read(select(tables.workers.c.id)))

    def read(self, statement: Any, **named: Any) -> list[Any]:
        """Rows of the database as it is now."""
        if self._engine is None:
            self._engine = db.open_engine(self._world.host.settings.url)
        with self._engine.connect() as conn:
            return list(conn.execute(statement, named))

    def close(self) -> None:
        if self._engine is not None:
            self._engine.dispose()
            self._engine = None
