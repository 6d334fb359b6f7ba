"""Where claims wait for a trial: async, first come first served, holding no thread.

A claim tries at once. If there is nothing for it, it parks until something may have changed: a commit
made trials claimable, a backoff ends, a draft has been stale for long enough. After a commit one look
at the active studies tells how many trials each project has to give; as many waiters are woken as
there are trials, longest wait first, and each that finds nothing for its own tasks wakes the next.
So a trial costs a few tries, not one for each waiter, and reports, which give no trial, cost none.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import structlog

from tunesmith_service.commands import Claim, Granted, Nothing

POLL_SECONDS = 1.0
"""Without a word from our own writer, look this often: other servers write to the same database."""

SPACING_SECONDS = 0.02
"""Looks are at least this far apart, however fast commits come."""

WAKE_AT_LEAST = 8
"""Waiters woken together even for one trial: the first may not serve its task."""

FRESH_WAIT_MAX_US = 20_000_000
"""A study that lets claims wait longer than any poll never hands out a stale draft."""

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Demand:
    """What an active study could hand out now: its waiting trials, and room under max_concurrent."""

    project_id: int
    waiting: int
    running: int
    max_concurrent: int | None

    @property
    def open(self) -> int:
        room = self.waiting if self.max_concurrent is None else self.max_concurrent - self.running
        return max(0, min(self.waiting, room))


@dataclass(eq=False, slots=True)
class _Waiter:
    project_id: int
    woken: asyncio.Event = field(default_factory=asyncio.Event)
    round: int = 0  # the round that woke it last
    wants_fresh: bool = False  # saw a stale draft: any commit may be its redraw


class WaitingRoom:
    """Args:
    submit: hands a Claim to the writer.
    look: the active studies' demand, by study id.
    now_us: the service's clock.
    """

    def __init__(
        self,
        submit: Callable[[Claim], Awaitable[Granted | Nothing]],
        look: Callable[[], Awaitable[Mapping[int, Demand]]],
        now_us: Callable[[], int],
    ) -> None:
        self._submit, self._look, self._now_us = submit, look, now_us
        self._waiters: dict[_Waiter, None] = {}  # in order of arrival, those that try too
        self._parked = 0
        self._seen: Mapping[int, Demand] = {}
        self._round = 0
        self._left: dict[int, int] = {}  # by project: trials that the newest look saw, less those given
        self._changed = asyncio.Event()
        self._closing = False
        self._task: asyncio.Task[None] | None = None

    def __len__(self) -> int:
        return len(self._waiters)

    async def start(self) -> None:
        self._task = asyncio.create_task(self._run(), name="waiting room")

    async def stop(self) -> None:
        self.close()
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task

    def close(self) -> None:
        """Answer all who wait; whoever comes from now on gets one try."""
        self._closing = True
        for waiter in self._waiters:
            waiter.woken.set()

    def changed(self, study_ids: Iterable[int]) -> None:
        """A commit changed these studies. Called on the event loop."""
        self._changed.set()

    def gave(self, project_id: int) -> None:
        """A trial of this project was given, here or to a claim that came with a finish."""
        self._left[project_id] = self._left.get(project_id, 0) - 1
        self._seen = {}  # the next trial may make the study look as it did before this one

    async def claim(
        self,
        claim: Claim,
        *,
        wait_seconds: float,
        watch: Callable[[], asyncio.Future[None]],
        parked: Callable[[], None] = lambda: None,
    ) -> Granted | Nothing:
        """Try, and wait for up to `wait_seconds`.

        Args:
            watch: called before the first wait; done when the client goes away, which leaves the queue then.
            parked: called whenever it begins to wait: from then on it costs next to nothing.

        Raises: what the writer refuses the claim with.
        """
        loop = asyncio.get_running_loop()
        until = loop.time() + wait_seconds
        stale_at = math.inf  # from then on a stale draft will do
        gone: asyncio.Future[None] | None = None
        waiter = _Waiter(claim.project_id)
        self._waiters[waiter] = None
        try:
            while True:
                waiter.woken.clear()
                accept_stale = loop.time() >= stale_at
                outcome = await self._submit(replace(claim, accept_stale=accept_stale))
                if isinstance(outcome, Granted):
                    self.gave(claim.project_id)
                    return outcome
                if outcome.draining or outcome.ended or self._closing:
                    return outcome
                self._pass_on(waiter)
                waiter.wants_fresh = outcome.stale
                if not outcome.stale or outcome.fresh_wait_us > FRESH_WAIT_MAX_US:
                    stale_at = math.inf
                elif stale_at == math.inf:
                    stale_at = min(until, loop.time() + outcome.fresh_wait_us / 1e6)
                if loop.time() >= until and (accept_stale or stale_at == math.inf):
                    return outcome
                gone = gone or watch()
                parked()
                await self._park(waiter, min(until, stale_at, self._backoff_ends(outcome)), gone)
                if self._closing or gone.done():
                    return outcome
        finally:
            del self._waiters[waiter]
            if gone is not None:
                gone.cancel()
                await asyncio.wait([gone])

    def _backoff_ends(self, outcome: Nothing) -> float:
        """When the next trial's backoff ends, on the loop's clock."""
        if outcome.retry_at_us is None:
            return math.inf
        return asyncio.get_running_loop().time() + (outcome.retry_at_us - self._now_us()) / 1e6

    async def _park(self, waiter: _Waiter, wake_at: float, gone: asyncio.Future[None]) -> None:
        woken = asyncio.ensure_future(waiter.woken.wait())
        self._parked += 1
        try:
            timeout = max(0.0, wake_at - asyncio.get_running_loop().time())
            both: set[asyncio.Future[Any]] = {woken, gone}
            await asyncio.wait(both, timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
        finally:
            self._parked -= 1
            woken.cancel()

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        forget_at = loop.time() + POLL_SECONDS
        while True:
            # Not wait_for: in Python 3.11 it may swallow a cancellation.
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(POLL_SECONDS):
                    await self._changed.wait()
            if loop.time() >= forget_at:  # what other servers gave and took back shows in no difference
                self._seen, forget_at = {}, loop.time() + POLL_SECONDS
            if self._parked:
                self._changed.clear()
                try:
                    self._wake(await self._look())
                except Exception as error:  # the database is away: waiters stay, the next look may do
                    log.warning("claims.look_failed", error=str(error))
            elif not self._waiters:
                self._changed.clear()
            # else each is trying just now: if one parks after all, the look that it needs comes then
            await asyncio.sleep(SPACING_SECONDS)

    def _wake(self, demand: Mapping[int, Demand]) -> None:
        """Wake waiters of projects that have trials to give which they had not at the last look."""
        open_: dict[int, int] = {}
        for study_id, now in demand.items():
            if now.open and now != self._seen.get(study_id):
                open_[now.project_id] = open_.get(now.project_id, 0) + now.open
        self._seen, self._left = demand, open_
        self._round += 1
        for project_id, trials in list(open_.items()):
            line = [w for w in self._waiters if w.project_id == project_id]
            for waiter in line[: max(trials, WAKE_AT_LEAST)]:
                self._wake_one(waiter)
        for waiter in self._waiters:
            if waiter.wants_fresh:
                self._wake_one(waiter)

    def _wake_one(self, waiter: _Waiter) -> None:
        waiter.round = self._round
        waiter.woken.set()

    def _pass_on(self, waiter: _Waiter) -> None:
        """A waiter woken by the newest round found nothing for it: the next in line may."""
        if waiter.round != self._round or self._left.get(waiter.project_id, 0) <= 0:
            return
        for other in self._waiters:
            if other.project_id == waiter.project_id and other.round < self._round:
                self._wake_one(other)
                return
