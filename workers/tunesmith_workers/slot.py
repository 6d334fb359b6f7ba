"""One slot: a warm child, and one trial after another on it.

A claim is made only with a child that is ready, so never before the last one is reaped and its GPU
memory is back; a task or data file that was edited replaces the child before the next claim.

A child that stays warm is needed no more once the finish of its trial goes out, so the next claim goes with
it: the service ends the one trial, looks for another, and answers both at once.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Protocol, TypeAlias

import structlog
from tunesmith_service import wire
from tunesmith_service.client import (
    ClaimStale,
    Forbidden,
    NoSpace,
    Refused,
    Unauthorized,
    Unavailable,
)

from tunesmith_workers.attempt import Attempt
from tunesmith_workers.child_process import ChildProcess, ChildStartError
from tunesmith_workers.errands import Tools
from tunesmith_workers.gang_process import GangProcess
from tunesmith_workers.gpu_memory import GpuMemory
from tunesmith_workers.state import Start

ASK_AGAIN_SECONDS = 3.0
LOOK_SECONDS = 1.0  # how often a broken task file is looked at again

Stamp: TypeAlias = dict[str, tuple[int, int] | None]


class Owner(Protocol):
    """What a slot needs of its supervisor."""

    start: Start
    tools: Tools

    async def declare(self, tasks: Mapping[str, str], *, again: bool = False) -> None:
        """Have these tasks registered before a claim; `again` although nothing has changed."""

    @property
    def has_declared(self) -> bool: ...

    def claim_seconds(self) -> float:
        """How long the next claim may wait."""

    def began(self) -> None: ...

    def ended(self) -> None: ...

    def found_nothing(self, *, draining: bool) -> None: ...


@dataclass(frozen=True, slots=True)
class Seat:
    """Where a slot stands and what its child is started with."""

    number: int
    slot_id: str
    scratch: Path
    arguments: Sequence[str]
    environ: Mapping[str, str]
    tasks: Sequence[Path]
    data: Sequence[Path]
    memory: GpuMemory = field(default_factory=lambda: GpuMemory(lambda: None))
    ranks: int = 1  # trainer processes, one a device


@dataclass(frozen=True, slots=True)
class _Claimed:
    """A claim for a child; `grant` is None until it is known."""

    child: ChildProcess
    body: wire.Claim
    grant: wire.Grant | None = None


class Slot:
    """Runs until `stop`; `once`: takes one trial alone."""

    def __init__(
        self, owner: Owner, seat: Seat, log: structlog.stdlib.BoundLogger, *, once: bool = False
    ) -> None:
        self._owner, self._seat, self._once = owner, seat, once
        self._log = log.bind(slot=seat.number)
        self._child: ChildProcess | None = None
        self._stamp: Stamp = {}
        self._attempt: Attempt | None = None
        self._task: asyncio.Task[None] | None = None
        self._next: _Claimed | None = None  # by a finish, and not begun
        self._stopping = False

    def stop(self, cause: str) -> None:
        """Hand back what runs, or leave at once if nothing does. A second time: release now."""
        self._stopping = True
        if self._attempt is not None:
            self._attempt.hand_back(cause)
        elif self._task is not None:
            self._task.cancel()

    async def run(self) -> None:
        """Raises: ChildStartError when the first child does not start; Unauthorized, Forbidden."""
        self._task = asyncio.current_task()
        try:
            while not self._stopping:
                child = await self._ready_child()
                if self._stopping:  # in Python 3.11 wait_for may swallow the cancellation
                    break
                claimed, self._next = self._next or _Claimed(child, self._new_claim()), None
                grant = claimed.grant or await self._claim(child, claimed.body)
                if grant is None:
                    continue
                await self._train(child, claimed, grant)
                if self._once:
                    return
        except asyncio.CancelledError:
            if not self._stopping:
                raise
        finally:
            await self._give_up_next()
            await self._end_child()

    # --- the child ---

    async def _ready_child(self) -> ChildProcess:
        if self._child is not None and self._stamp != _stamp(self._seat):
            self._log.info("files_changed", detail="starting the trainer anew")
            await self._end_child()
        if self._child is not None and not self._child.is_alive:
            await self._end_child()
        while self._child is None:
            await self._start_child()
        await self._owner.declare(self._child.tasks)
        return self._child

    async def _start_child(self) -> None:
        await self._seat.memory.settled(self._owner.tools, self._log)
        await self._seat.memory.starting()
        self._stamp = _stamp(self._seat)
        try:
            self._child = await self._started()
        except ChildStartError as e:
            if not self._owner.has_declared:
                raise
            self._log.error("trainer_does_not_start", reason=str(e), detail="waiting for an edit")
            await self._await_edit()
        else:
            self._log.info("trainer_ready", pid=self._child.pid)

    async def _started(self) -> ChildProcess:
        seat = self._seat
        if seat.ranks > 1:
            return await GangProcess.start_gang(seat.ranks, seat.arguments, seat.environ)
        return await ChildProcess.start(seat.arguments, seat.environ)

    async def _await_edit(self) -> None:
        """Until a file is another than the one that did not load; half a minute at most, for other causes."""
        for _ in range(30):
            if self._stamp != _stamp(self._seat):
                return
            await self._owner.tools.sleep(LOOK_SECONDS)

    async def _end_child(self) -> None:
        child, self._child = self._child, None
        if child is not None:
            await child.kill()
            self._seat.memory.ended()

    # --- trials ---

    def _new_claim(self) -> wire.Claim:
        start = self._owner.start
        return wire.Claim(
            claim_id=secrets.token_hex(16), worker_id=start.worker_id, boot_id=start.boot_id,
            slot_id=self._seat.slot_id, secret=secrets.token_hex(16),
        )  # fmt: skip

    async def _claim(self, child: ChildProcess, claim: wire.Claim) -> wire.Grant | None:
        owner, wait = self._owner, self._owner.claim_seconds()
        asked_at = owner.tools.clock()
        body = wire.ClaimRequest(**claim.model_dump(), wait_seconds=wait)
        try:
            reply = await owner.tools.client.claim(body)
        except asyncio.CancelledError:  # asked to stop, perhaps just as a trial was granted
            return await self._granted_meanwhile(claim)
        except (Unauthorized, Forbidden):
            raise
        except ClaimStale:  # its answer came too late to be of use; the next claim has an id of its own
            return None
        except NoSpace as e:  # the service's disk is full: what runs goes on, new trials wait
            self._log.warning("no_trials_now", detail=e.detail)
            await owner.tools.sleep(owner.tools.random.uniform(1.0, 5.0))
            return None
        except Refused as e:  # such as a service that has lost its database and does not know us
            self._log.warning("claim_refused", reason=e.type, detail=e.detail)
            await owner.declare(child.tasks, again=True)
            await owner.tools.sleep(owner.tools.random.uniform(0.5, 2.0))
            return None
        if reply.grant is None:
            owner.found_nothing(draining=reply.draining)
            if owner.tools.clock() - asked_at < min(wait, 1.0):  # answered at once: it drains, or shuts down
                await owner.tools.sleep(owner.tools.random.uniform(0.5, 1.5))
        return reply.grant

    async def _granted_meanwhile(self, claim: wire.Claim) -> wire.Grant | None:
        """What a claim that is not waited for was granted, so that it can be handed back: nobody else would
        get the trial before its lease expires. Asks once, and not for long."""
        again = wire.ClaimRequest(**claim.model_dump())
        try:
            async with asyncio.timeout(ASK_AGAIN_SECONDS):
                return (await self._owner.tools.client.claim(again, retry_for=0)).grant
        except (TimeoutError, Unavailable, Refused):
            return None

    def _claim_with_finish(self, child: ChildProcess) -> wire.Claim | None:
        """The claim that a finish takes along; the same one if it goes out again."""
        may = not (self._stopping or self._once) and self._stamp == _stamp(self._seat)
        if self._next is None and may:
            self._next = _Claimed(child, self._new_claim())
        return self._next.body if self._next else None

    def _answered(self, finished: wire.Finished | None) -> None:
        """What the finish was told of its claim; None: it was not answered."""
        if self._next is not None and finished is not None:
            grant = finished.claim and finished.claim.grant
            self._next = replace(self._next, grant=grant) if grant else None

    async def _give_up_next(self) -> None:
        """What it was granted is handed back: nobody else would get the trial before its lease expires."""
        claimed, self._next = self._next, None
        if claimed is None:
            return
        grant = claimed.grant or await self._granted_meanwhile(claimed.body)
        if grant is not None:
            await self._train(claimed.child, claimed, grant, hand_back=True)

    async def _train(
        self, child: ChildProcess, claimed: _Claimed, grant: wire.Grant, *, hand_back: bool = False
    ) -> None:
        work = grant.work
        log = self._log.bind(study=work.study, trial=work.number, attempt=grant.attempt)
        log.info("claimed", stage=work.stage, epochs=work.epochs, resume=work.resume and work.resume.step)
        scratch = self._seat.scratch / f"{grant.trial_id}-{grant.incarnation}-{grant.attempt}"
        self._attempt = Attempt(
            self._owner.tools, child, grant, claimed.body.secret, scratch, log=log,
            next_claim=lambda: self._claim_with_finish(child),
        )  # fmt: skip
        self._owner.began()
        try:
            is_other = child is not claimed.child or not child.is_alive or self._stamp != _stamp(self._seat)
            if hand_back or self._stopping or is_other:
                # Asked to stop, the trainer gone, or its files edited since the claim: the trial may be
                # pinned to the code that was claimed with.
                self._attempt.hand_back("shutdown")
            warm = await self._attempt.drive()
            self._answered(self._attempt.finished)
        finally:
            self._attempt = None
            self._owner.ended()
        if not warm:
            await self._end_child()


def _stamp(seat: Seat) -> Stamp:
    """What changes when a file is edited that the child has read, or a task file's neighbour, which it may
    have imported."""
    neighbours = {file for task in seat.tasks for file in task.parent.glob("*.py")}
    stamp: dict[str, tuple[int, int] | None] = {}
    for file in {*seat.tasks, *seat.data, *neighbours}:
        stamp[str(file)] = None
        with contextlib.suppress(OSError):  # not there just now: an editor may be about to put it back
            stat = file.stat()
            stamp[str(file)] = (stat.st_mtime_ns, stat.st_size)
    return stamp
