"""The service as a process of the simulation: the real application, its writer and planner without threads
and processes of their own."""

from __future__ import annotations

import asyncio
import contextlib
import json
import sqlite3
import time
from collections import deque
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from random import Random
from types import SimpleNamespace
from typing import Any
from unittest import mock

import anyio.to_thread
import httpx
from fastapi import FastAPI
from sqlalchemy import Engine
from tunesmith_service import core, db, high_water, migrate, planner, planner_link, restoring, waiting_room
from tunesmith_service.app import create_app
from tunesmith_service.clock import SECOND
from tunesmith_service.commands import Command
from tunesmith_service.core import Service
from tunesmith_service.planner import Desk
from tunesmith_service.planner_link import PlannerLink
from tunesmith_service.settings import Settings
from tunesmith_service.shedding import Priorities
from tunesmith_service.sweeper import OUTAGE_SECONDS, Sweeper
from tunesmith_service.writer import Writer

from simulation.disk import Disk
from simulation.loop import Process, VirtualLoop, current_process, run_here
from simulation.network import Network

EPOCH_US = 1_750_000_000_000_000
"""What the wall clock shows at second 0 of the loop."""


class LoopWriter(Writer):
    """Commits in callbacks what has come in a moment, in place of a thread."""

    random = Random(0)
    _is_due = False

    async def start(self) -> None:
        pass

    async def stop(self) -> None:
        self._closing = True
        self._turn()

    async def submit(self, command: Command) -> Any:
        if not self._is_due:
            self._is_due = True
            moment = self.random.choice((0.0, 0.001, 0.01, 0.1))
            asyncio.get_running_loop().call_later(moment, self._turn)
        return await super().submit(command)

    def _turn(self) -> None:
        self._is_due = False
        while self._queue:
            self._write(self._take())


class LoopPlanner(PlannerLink):
    """The planner's own code and the link's, without a process between them."""

    _desk: Desk | None = None
    _answers: deque[dict[str, Any]]

    @property
    def is_alive(self) -> bool:
        return self._desk is not None

    async def _start_process(self) -> None:
        self._known.clear()
        self._asked.clear()
        self._desk, self._answers = Desk(self._engine, clock=lambda: 0.0), deque()
        self._wake.set()

    async def _end_process(self) -> None:
        self._desk = None

    async def _send(self, message: Mapping[str, Any]) -> None:
        await asyncio.sleep(0)
        if self._desk is None:
            raise EOFError("the planner was ended")
        self._answers.extend(json.loads(json.dumps(a)) for a in self._desk.answers(message))

    async def _receive(self) -> dict[str, Any]:
        await asyncio.sleep(0)
        if not self._answers:
            raise EOFError("the planner was ended")
        return self._answers.popleft()


class Host:
    """The machine that the server runs on: starts it, knows when it was down.

    Attributes:
        jump_us: how far its wall clock has been set ahead.
        downs: when no server answered, as (from, to) in µs of the service's clock.
    """

    def __init__(
        self, loop: VirtualLoop, home: Path, network: Network, disk: Disk, ttl_seconds: float
    ) -> None:
        self._loop, self._network, self.disk = loop, network, disk
        self.settings = Settings(
            home=home,
            ttl_seconds=ttl_seconds,
            sweep_seconds=ttl_seconds / 6,
            reserve_bytes=0,
            reserve_percent=0,
            ballast_bytes=2**16,
            accept_restore=True,
            log_format="json",
        )
        self.jump_us = 0
        self.downs: list[tuple[int, int]] = []
        self.process: Process | None = None
        self.service: Service | None = None
        self.starts = 0
        self._down_since_us = self.wall_us()
        self._engines: list[Engine] = []

    def wall_us(self) -> int:
        return EPOCH_US + self.jump_us + int(self._loop.time() * SECOND)

    def now_us(self) -> int:
        """The service's time, or the wall's while there is none."""
        clock = getattr(self.service, "clock", None)
        return int(clock.now_us()) if clock is not None else self.wall_us()

    def _monotonic_ns(self) -> int:
        return int(self._loop.time() * 1_000_000_000)

    @property
    def is_up(self) -> bool:
        return self.process is not None and self.process.is_alive

    def start(self) -> None:
        assert not self.is_up
        self.process = Process(self._loop, f"server {self.starts}")
        self.starts += 1
        self.process.on_kill.append(self._went_down)
        self.process.spawn(self._serve(self.process))

    async def _serve(self, process: Process) -> None:
        service = Service(self.settings)
        try:
            await service.start()
        except Exception:  # such as a disk that fails: whoever runs the server starts it again
            process.kill()
            return
        self.service = service
        transport = httpx.ASGITransport(_app(self.settings, service), raise_app_exceptions=False)
        self.downs.append((self._down_since_us, self.now_us()))
        self._network.serve(process, partial(_answer, transport), service.clock.now_us)

    def _went_down(self) -> None:
        if self.is_serving:
            self._down_since_us = self.now_us()
        self.service = None
        for engine in self._engines:
            engine.dispose()
        self._engines.clear()

    @property
    def is_serving(self) -> bool:
        return self.service is not None

    @property
    def can_sweep(self) -> bool:
        return self.is_serving and self.process is not None and not self.process.is_stopped

    def copy_database(self) -> Path:
        """A copy of this moment beside the database."""
        copy = self.settings.home / "copy.db"
        copy.unlink(missing_ok=True)
        with (
            contextlib.closing(sqlite3.connect(self.settings.home / "tunesmith.db")) as ours,
            contextlib.closing(sqlite3.connect(copy)) as theirs,
        ):
            ours.backup(theirs)
        return copy

    def put_back(self, copy: Path) -> None:
        """Go on from an older copy, as `tunesmith restore` does after a disk is lost. The server is down."""
        assert not self.is_up
        for path in self.settings.home.glob("tunesmith.db*"):
            path.unlink()
        copy.rename(self.settings.home / "tunesmith.db")
        mark = high_water.read(self.settings.home)
        engine = _open_engine(self.settings.url)
        above = mark.incarnation if mark else 0
        restoring.begin_incarnation(engine, self.wall_us(), above=above, how="tunesmith restore")
        engine.dispose()

    @contextlib.contextmanager
    def stopped(self) -> Iterator[None]:
        """SIGSTOP and SIGCONT around it."""
        process, since = self.process, self.now_us()
        assert process is not None
        process.stop()
        yield
        process.go_on()
        # If it was ended meanwhile, that was taken down already; a shorter stop is none, for beats bear it.
        is_same = process is self.process and process.is_alive
        if is_same and self.now_us() - since > OUTAGE_SECONDS * SECOND:
            self.downs.append((since, self.now_us()))

    def open_engine(self, url: Any) -> Engine:
        """In the place of `db.open_engine`: what a server opens stands on our disk."""
        engine = _open_engine(url)
        process = current_process()
        if process is not None:
            self.disk.install(engine, process)
            self._engines.append(engine)
        return engine

    def patches(self) -> Iterator[Any]:
        """What has to be in place while the service runs here."""
        yield mock.patch.object(core, "Writer", LoopWriter)
        yield mock.patch.object(core, "PlannerLink", LoopPlanner)
        yield mock.patch.object(core, "Sweeper", partial(Sweeper, monotonic=self._loop.time))
        yield mock.patch.object(core, "wall_us", self.wall_us)
        yield mock.patch.object(core, "migrate", SimpleNamespace(upgrade=_migrated, applied=migrate.applied))
        yield mock.patch.object(planner, "gc", SimpleNamespace(freeze=_not_frozen))
        yield mock.patch.object(db, "hold", contextlib.nullcontext)
        yield mock.patch.object(db, "open_engine", self.open_engine)
        yield mock.patch.object(waiting_room, "POLL_SECONDS", 5.0)
        yield mock.patch.object(planner_link, "LOOK_EVERY_SECONDS", 10.0)
        yield mock.patch.object(anyio.to_thread, "run_sync", run_here)
        yield mock.patch.object(time, "monotonic", self._loop.time)
        yield mock.patch.object(time, "monotonic_ns", self._monotonic_ns)


def _migrated(engine: Engine) -> None:
    """The template was migrated; looking again at each start of a server takes a tenth of a second."""


def _not_frozen() -> None:
    """What the planner folded is garbage once its seed is over."""


_open_engine = db.open_engine
_apps: dict[str, FastAPI] = {}


def _app(settings: Settings, service: Service) -> FastAPI:
    """One application for all servers of this process, for it takes a second to make: `service` answers from
    now on. Requests of a killed server never run again, so they do not meet another's."""
    if "it" not in _apps:
        _apps["it"] = create_app(settings)
    app = _apps["it"]
    app.state.service = service
    priorities = Priorities(app.routes)
    app.state.shedding.__init__(service.places, priorities, service.vouches, settings.prefix)
    return app


async def _answer(transport: httpx.ASGITransport, request: httpx.Request) -> httpx.Response:
    response = await transport.handle_async_request(request)
    content = await response.aread()
    retry_after: Mapping[str, str] = {k: v for k, v in response.headers.items() if k == "retry-after"}
    return httpx.Response(response.status_code, headers=retry_after, content=content, request=request)
