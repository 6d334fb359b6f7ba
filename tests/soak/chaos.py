"""A soak from start to end: everything is started, faults rage, calm, and what it came to."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from random import Random

from benchmarks.seed_dashboard import NAME as SEEDED
from benchmarks.seed_dashboard import seed
from databases import Postgres
from sqlalchemy import Engine
from tunesmith_service import db, migrate
from tunesmith_service.client import Client

from soak import journal
from soak.deployment import Crowd, Root, Service, Trainers
from soak.faults import Faults, Target
from soak.proxy import Proxy
from soak.requeues import Expiries
from soak.running import Running
from soak.studies import Studies
from soak.summary import Summary, summarise

MEMORY_SECONDS = 2.0

Say = Callable[[str], None]


@dataclass(frozen=True)
class Plan:
    """What is asked of a soak.

    Attributes:
        minutes: of faults; then comes the time until all has ended.
        database: sqlite or postgres.
        workers: light ones.
        trainers: whether a real worker with a real trainer is among them, which needs torch.
        seeded: finished trials that the database begins with.
        epoch_seconds: what an epoch of a light worker takes, on average.
        pace: of the faults; 2 is twice as many.
        servers: on one PostgreSQL; workers go to them in turn.
        kill_every: seconds from one kill of a server to the next; None: as the other faults come.
    """

    minutes: float
    database: str = "sqlite"
    workers: int = 64
    trainers: bool = True
    seed: int = 0
    seeded: int = 0
    epoch_seconds: float = 1.5
    ttl_seconds: float = 30.0
    sweep_seconds: float = 2.0
    pace: float = 1.0
    servers: int = 1
    kill_every: float | None = None

    def __post_init__(self) -> None:
        if self.servers > 1 and self.database != "postgres":
            raise ValueError(f"{self.servers} servers need PostgreSQL; SQLite has one")

    @property
    def settle_seconds(self) -> float:
        """Everything must have ended so long after the last fault: 2 TTL, and what was left to train, on a
        machine that others keep busy."""
        return 2 * self.ttl_seconds + 300.0


@dataclass
class Stage:
    """All parts, running."""

    plan: Plan
    services: list[Service]
    engine: Engine
    crowd: Crowd
    proxy: Proxy
    studies: Studies
    faults: Faults
    expiries: Expiries
    running: Running
    say: Say
    settled_seconds: float | None = None
    seconds: float = 0.0

    async def play(self) -> None:
        began = time.monotonic()
        self.say(f"{self.plan.minutes:g} minutes of faults")
        watching = (self.expiries.watch(), self.running.watch(), self._watch_memory())
        async with _beside(*watching, self.faults.tend()):
            async with _beside(self.studies.keep_coming()):
                await self.faults.rage(self.plan.minutes * 60)
            self.proxy.calm_down()
            self.say("no more faults; all that runs comes to its end")
            calm = time.monotonic()
            if await self.studies.all_end(self.plan.settle_seconds):
                self.settled_seconds = time.monotonic() - calm
        await self.proxy.stop()
        self.seconds = time.monotonic() - began

    async def _watch_memory(self) -> None:
        while True:
            for service in self.services:
                service.look_at_memory()
            await asyncio.sleep(MEMORY_SECONDS)


@asynccontextmanager
async def _beside(*work: Coroutine[object, object, None]) -> AsyncIterator[None]:
    """What goes on meanwhile; should it fail, so does what is done within."""
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(one) for one in work]
        yield
        for task in tasks:
            task.cancel()


@asynccontextmanager
async def _running(plan: Plan, root: Path, say: Say) -> AsyncIterator[Stage]:
    random = Random(plan.seed)
    async with AsyncExitStack() as stack:
        postgres = None
        if plan.database == "postgres":
            postgres = await asyncio.to_thread(Postgres)
            stack.callback(postgres.close)
            if plan.servers > 1:
                await asyncio.to_thread(postgres.note_commits)
        home = root / "home"
        url = postgres.url if postgres else f"sqlite:///{home / 'tunesmith.db'}"
        if plan.seeded:
            say(f"seeding {plan.seeded:,} trials")
            await asyncio.to_thread(_seed, url, home, plan.seeded)
        services: list[Service] = []
        for number in range(plan.servers):
            at, blobs = (root / f"home-{number}", home / "blobs") if number else (home, None)
            told = postgres.url if postgres else ""
            services.append(one := Service(at, told, plan.ttl_seconds, plan.sweep_seconds, blobs))
            stack.callback(one.end, signal.SIGKILL)
            await one.start()
        service = services[0]
        if plan.seeded:
            await asyncio.to_thread(_stop_seeded, service)
        engine = db.open_engine(url)
        stack.callback(engine.dispose)
        proxy = Proxy([("127.0.0.1", one.port) for one in services], random)
        await proxy.start()
        crowd = Crowd(root, plan.epoch_seconds)
        stack.callback(crowd.close)
        for number in range(plan.workers):
            crowd.start(number, proxy.url, service.token("worker"))
        trainers = Trainers(root) if plan.trainers else None
        if trainers is not None:
            stack.callback(trainers.end, signal.SIGKILL)
            trainers.start(proxy.url, service.token("worker"))
        trained = max(2, int(plan.minutes * 8)) if plan.trainers else 0
        studies = Studies(
            proxy.url, service.token("operator"), engine, random, workers=plan.workers, trained=trained
        )
        target = Target(services, crowd, trainers, postgres, proxy.url, plan.workers)
        faults = Faults(target, random, plan.ttl_seconds, plan.pace, plan.kill_every)
        watching = Expiries(engine), Running(engine)
        yield Stage(plan, services, engine, crowd, proxy, studies, faults, *watching, say)


def _seed(url: str, home: Path, trials: int) -> None:
    engine = db.open_engine(url)
    migrate.upgrade(engine)
    seed(engine, home, trials)
    engine.dispose()


def _stop_seeded(service: Service) -> None:
    """Nobody trains what is left of it, and the planner need not read it first after each start."""
    with Client(service.url, service.token("operator"), retry_for=60) as client:
        client.post("studies", SEEDED, "stop")


async def _soak(plan: Plan, root: Path, say: Say) -> tuple[Summary, str]:
    task = asyncio.current_task()
    assert task is not None
    asyncio.get_running_loop().add_signal_handler(
        signal.SIGTERM, task.cancel
    )  # everything is ended all the same
    async with _running(plan, root, say) as stage:
        await stage.play()
        say("asking every invariant; each decision is made again")
        summary = await asyncio.to_thread(summarise, stage, journal.read(stage.crowd.journals))
    trainers = stage.faults.target.trainers
    said = [line for service in stage.services for line in service.said]
    return summary, "".join([*said, *(trainers.said if trainers else [])])


def soak(plan: Plan, say: Say = lambda _: None) -> tuple[Summary, str]:
    """Run it. Returns what it came to, and all that the service and the real worker said.

    Args:
        say: told how far it is.
    """
    with Root() as root:
        return asyncio.run(_soak(plan, root, say))
