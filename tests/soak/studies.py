"""Somebody who always has a study to run: those of the light workers, and one of the real trainer."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from itertools import count
from random import Random
from typing import Any

from light import TASK as LIGHT
from sqlalchemy import Engine, func, select
from tunesmith_service import tables
from tunesmith_service.client import Client, Conflict, NoSpace, Unavailable

from soak.deployment import TASK as TINY

AT_ONCE = 2
"""Studies of light workers that run beside one another."""

NAME = "soak-"
TRAINED = f"{NAME}trained"
SPACE = {"lr": {"low": 1e-3, "high": 1.0, "log": True}}
RANDOM: dict[str, Any] = {"kind": "random", "epochs": 4}
PRUNED = RANDOM | {"pruner": {"kind": "median", "n_startup_trials": 10}}
TPE = {"kind": "sampler", "epochs": 4, "sampler": {"kind": "tpe", "n_startup_trials": 20}, "trials": 40}
STAGES = (RANDOM, PRUNED, TPE, RANDOM, PRUNED)
"""Few trials by TPE: all its drafts are drawn again with each end, and all that again when it is checked."""

TRIALS_A_WORKER = 4


class Studies:
    """Args:
    url: where requests go that create something; they are replayed like any other's.
    engine: to look what runs.
    workers: every other study runs on half of them.
    trained: trials of the real trainer; 0: none.
    """

    def __init__(
        self, url: str, token: str, engine: Engine, random: Random, *, workers: int, trained: int
    ) -> None:
        self._url, self._token, self._engine, self._random = url, token, engine, random
        self._workers, self._trained = workers, trained
        self._numbers = count()
        self.counts: Counter[str] = Counter()

    async def keep_coming(self) -> None:
        """Until cancelled."""
        if self._trained:
            await self._create(
                self._spec(TRAINED, TINY, {"kind": "random", "epochs": 3, "trials": self._trained})
            )
        while True:
            if await self._active() < AT_ONCE + (self._trained > 0):
                number = next(self._numbers)
                stage = {"trials": TRIALS_A_WORKER * self._workers} | STAGES[number % len(STAGES)]
                spec = self._spec(f"{NAME}{number}", LIGHT, stage)
                spec["limits"] = {"max_concurrent": self._workers // 2} if number % 2 else {}
                await self._create(spec)
            await asyncio.sleep(1.0)

    async def _active(self) -> int:
        """As many as there are, or none to be made while the database is away."""
        try:
            return await asyncio.to_thread(self._count, tables.studies.c.state == "active")
        except Exception:
            return 2**30

    def _spec(self, name: str, task: str, stage: dict[str, Any]) -> dict[str, Any]:
        seed = self._random.randrange(1000)
        return {
            "name": name, "task": task, "space": SPACE, "retries": 20, "seed": seed,
            "stages": [{**stage, "name": "only"}],
        }  # fmt: skip

    async def _create(self, spec: dict[str, Any]) -> None:
        while True:
            try:
                return await asyncio.to_thread(self._post, spec)
            except Conflict:  # it had been created, and nobody was told
                return
            except (Unavailable, NoSpace):
                self.counts["studies put off"] += 1
                await asyncio.sleep(1.0)

    def _post(self, spec: dict[str, Any]) -> None:
        with Client(self._url, self._token, retry_for=5) as client:
            client.post("studies", json=spec)

    # --- how far they are ---

    def _count(self, *which: Any) -> int:
        wanted = select(func.count()).where(tables.studies.c.name.startswith(NAME), *which)
        with self._engine.connect() as conn:
            return int(conn.execute(wanted).scalar_one())

    async def all_end(self, seconds: float) -> bool:
        """Whether they did within that time; workers that were set aside may work again."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while await self._active():
                    await asyncio.to_thread(self._set_right)
                    await asyncio.sleep(1.0)
                return True
        return False

    def _set_right(self) -> None:
        aside = select(tables.workers.c.id).where(tables.workers.c.aside_until_us.is_not(None))
        with self._engine.connect() as conn:
            workers = conn.execute(aside).scalars().all()
        with Client(self._url, self._token, retry_for=30) as client:
            for worker in workers:
                client.post("workers", worker, "undrain")

    def ids(self) -> set[int]:
        """Of all that were made."""
        wanted = select(tables.studies.c.id).where(tables.studies.c.name.startswith(NAME))
        with self._engine.connect() as conn:
            return set(conn.execute(wanted).scalars())
