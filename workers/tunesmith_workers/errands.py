"""What runs beside an attempt and puts what happens into its mailbox: beats, deliveries, the child's
words, time. None of it decides anything; that is the attempt's.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

import structlog
from tunesmith_service import wire
from tunesmith_service.client import CorruptDownloadError, Refused, WorkerClient

from tunesmith_workers.beats import Beats
from tunesmith_workers.child_process import ChildProcess, Death
from tunesmith_workers.delivery import ENDS_THE_LEASE, Delivery
from tunesmith_workers.happenings import Away, Bug, Delivered, Happening, NoResume, Refusal, Said, Stalled
from tunesmith_workers.spool import Spool

DOWNLOADS = 3


@dataclass(frozen=True, slots=True)
class Patience:
    """How long an attempt bears with what goes wrong, in seconds.

    Attributes:
        hand_back: from the signal to the release; Kubernetes kills after 30.
        max_offline: without an answer of the service, before training stops.
        stall: without a word from the child, before it is killed; None: for ever.
    """

    hand_back: float = 25.0
    max_offline: float = 600.0
    stall: float | None = None


@dataclass(slots=True)
class Tools:
    """What every attempt of a worker uses."""

    client: WorkerClient
    url: str
    spools: Path
    patience: Patience = field(default_factory=Patience)
    random: Random = field(default_factory=Random)
    clock: Callable[[], float] = lambda: asyncio.get_running_loop().time()
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep


class Errands:
    """The tasks of one attempt. `mailbox` gets what happens, in one order.

    Attributes:
        begun: whether the child was told of the trial.
    """

    def __init__(
        self,
        tools: Tools,
        child: ChildProcess,
        grant: wire.Grant,
        spool: Spool,
        scratch: Path,
        *,
        log: structlog.stdlib.BoundLogger,
        next_claim: Callable[[], wire.Claim | None] = lambda: None,
    ) -> None:
        self._tools, self._child, self._grant, self._lease = tools, child, grant, spool.lease
        self._spool, self._scratch, self._log = spool, scratch, log
        self._next_claim = next_claim
        self._beats = Beats(
            tools.client, self._lease, grant.ttl_seconds,
            random=tools.random, clock=tools.clock, sleep=tools.sleep, log=log,
        )  # fmt: skip
        self.mailbox: asyncio.Queue[Happening] = asyncio.Queue()
        self.begun = False
        self._tasks: set[asyncio.Task[None]] = set()
        self._training: asyncio.Task[None] | None = None
        self._delivering: asyncio.Task[None] | None = None
        self._heard_child_at = tools.clock()

    def start(self) -> None:
        self._start(self._beat())
        self._training = self._start(self._train())
        self._start(self._watch())
        self.deliver()

    async def end(self) -> None:
        await self._stop(*self._tasks)

    def heard_child(self) -> None:
        self._heard_child_at = self._tools.clock()

    def after(self, seconds: float, happening: Happening) -> None:
        async def wait() -> None:
            await self._tools.sleep(seconds)
            self.mailbox.put_nowait(happening)

        self._start(wait())

    async def never_begins(self) -> bool:
        """Whether the child has not been told of the trial; from then on it will not be."""
        if not self.begun and self._training is not None:
            await self._stop(self._training)
        return not self.begun

    # --- deliveries ---

    def deliver(self) -> None:
        """Send the spool, until its last word is accepted or one of its writes is refused."""

        async def send() -> None:
            try:
                self.mailbox.put_nowait(Delivered(await self._delivery().run()))
            except Refused as refusal:
                self.mailbox.put_nowait(Refusal(refusal, by_delivery=True))

        self._delivering = self._start(send())

    async def stop_delivering(self) -> None:
        if self._delivering is not None:
            await self._stop(self._delivering)

    async def release_within(self, seconds: float, body: wire.Release) -> bool:
        """Release past all that the spool holds. Returns: whether the service answered in time."""

        async def release() -> None:
            with contextlib.suppress(Refused):  # then it is not ours to end any more
                await self._tools.client.release(self._lease, body)

        return await self._within(seconds, release())

    async def flush_within(self, seconds: float) -> bool:
        """Send what the spool holds. Returns: whether the service answered in time."""

        async def flush() -> None:
            with contextlib.suppress(Refused):
                await self._delivery().flush()

        return await self._within(seconds, flush())

    async def _within(self, seconds: float, work: Coroutine[Any, Any, None]) -> bool:
        async def wait() -> None:
            await self._tools.sleep(seconds)

        telling = self._start(work)
        await asyncio.wait([telling, self._start(wait())], return_when=asyncio.FIRST_COMPLETED)
        return telling.done()

    def _delivery(self) -> Delivery:
        tools = self._tools
        return Delivery(
            tools.client, self._spool, log=self._log, sleep=tools.sleep, next_claim=self._next_claim
        )

    # --- the child, the lease and time ---

    async def _train(self) -> None:
        try:
            given = await self._fetch_snapshots()
        except Refused as refusal:
            if isinstance(refusal, ENDS_THE_LEASE):
                self.mailbox.put_nowait(Refusal(refusal, by_delivery=False))
            else:
                self.mailbox.put_nowait(NoResume("snapshot_missing", refusal.detail))
            return
        except CorruptDownloadError as e:
            self.mailbox.put_nowait(NoResume("snapshot_corrupt", e.detail))
            return
        except OSError as e:  # our own disk
            self.mailbox.put_nowait(NoResume("no_room_for_snapshot", str(e)))
            return
        self.begun = True
        work = self._grant.work
        await self._child.say({
            "do": "run", "work": work.model_dump(mode="json"),
            "resume": str(given[work.resume.sha256]) if work.resume else None,
            "members": [str(given[m.sha256]) for m in work.members],
            "scratch": str(self._scratch),
        })  # fmt: skip
        while True:
            try:
                said = await self._child.next()
            except ValueError as e:
                said = {"say": f"something unreadable: {e}"}
            self.mailbox.put_nowait(said if isinstance(said, Death) else Said(said))
            if isinstance(said, Death):
                return

    async def _fetch_snapshots(self) -> dict[str, Path]:
        """The snapshot to go on from and those to evaluate, by hash: one that is named twice comes once.

        Raises: Refused; CorruptDownloadError after the last of a few tries.
        """
        work = self._grant.work
        given: dict[str, Path] = {}
        for ref in [*([work.resume] if work.resume else []), *work.members]:
            if ref.sha256 not in given:
                path = self._scratch / f"given-{len(given)}.safetensors"
                await self._fetch(ref.sha256, path)
                given[ref.sha256] = path
        return given

    async def _fetch(self, sha256: str, path: Path) -> None:
        for _ in range(DOWNLOADS - 1):
            with contextlib.suppress(CorruptDownloadError):
                await self._tools.client.fetch_snapshot(self._lease, sha256, path)
                return
        await self._tools.client.fetch_snapshot(self._lease, sha256, path)

    async def _watch(self) -> None:
        """Notes when the service or the child has been silent for too long."""
        patience = self._tools.patience
        while True:
            await self._tools.sleep(1.0)
            if self._beats.silent_seconds() > patience.max_offline:
                self.mailbox.put_nowait(Away())
            if patience.stall is not None and self._tools.clock() - self._heard_child_at > patience.stall:
                self.mailbox.put_nowait(Stalled())

    async def _beat(self) -> None:
        try:
            await self._beats.run()
        except Refused as refusal:
            self.mailbox.put_nowait(Refusal(refusal, by_delivery=False))

    def _start(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._on_task_done)
        return task

    def _on_task_done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self.mailbox.put_nowait(Bug(error))

    async def _stop(self, *tasks: asyncio.Task[None]) -> None:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
