"""The background loop: takes back expired leases, gives grace after an outage of ours, writes down when
tokens and sessions were used, and has bytes deleted that nothing names. No failure ends it."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable, Sequence

import structlog

from tunesmith_service.clock import SECOND
from tunesmith_service.commands import Grace, Sweep, Swept
from tunesmith_service.errors import TunesmithError

OUTAGE_SECONDS = 10.0
"""This long without a good tick is an outage: leases could not be renewed either."""

NOTE_SECONDS = 60.0

NONE = -1
"""No trial's id."""

log = structlog.get_logger(__name__)


class Sweeper:
    """Args:
    submit: hands a command to the writer.
    run_out: ids of trials whose leases have run out.
    resync: how far the wall clock has jumped ahead, in µs (see `clock.SystemClock.resync`).
    tend: looks after the home, such as room on its disk.
    note_use: writes down when tokens and sessions were last used.
    collect: deletes what nothing names. It may take hours: rounds go on meanwhile.
    """

    def __init__(
        self,
        *,
        submit: Callable[..., Awaitable[object]],
        run_out: Callable[[], Awaitable[Sequence[int]]],
        resync: Callable[[], int],
        tend: Callable[[], Awaitable[None]],
        note_use: Callable[[], Awaitable[None]],
        collect: Callable[[], Awaitable[None]],
        ttl_seconds: float,
        sweep_seconds: float,
        collect_seconds: float,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._submit, self._run_out, self._resync, self._tend = submit, run_out, resync, tend
        self._note_use, self._collect = note_use, collect
        self._ttl_seconds = ttl_seconds
        self._sweep_seconds, self._collect_seconds = sweep_seconds, collect_seconds
        self._monotonic = monotonic
        self._ticked = self._noted = self._collected = monotonic()
        self._task: asyncio.Task[None] | None = None
        self._collecting: asyncio.Task[None] | None = None

    @property
    def age_seconds(self) -> float:
        """Since the last good tick."""
        return self._monotonic() - self._ticked

    async def start(self) -> None:
        self._task = asyncio.create_task(self._run(), name="sweeper")

    async def stop(self) -> None:
        for task in (self._task, self._collecting):
            if task is not None:
                task.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await task

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(self._sweep_seconds)
            await _tried(self.tick)

    async def tick(self) -> None:
        """One round. Raises: what the writer does; the next round goes on."""
        jumped_us = await asyncio.to_thread(self._resync)
        away_seconds = self.age_seconds
        if jumped_us or away_seconds > min(OUTAGE_SECONDS, self._ttl_seconds):
            away_us = max(jumped_us, int(away_seconds * SECOND))
            moved = await self._submit(Grace(outage_us=away_us + int(self._ttl_seconds * SECOND) // 3))
            log.warning("leases.grace", jumped_us=jumped_us, away_seconds=round(away_seconds, 1), moved=moved)
        expired = await self._sweep()
        self._ticked = self._monotonic()
        if expired:
            log.info("leases.expired", trial_ids=expired)
        await self._tend()
        await self._rarely()

    async def _sweep(self) -> tuple[int, ...]:
        """Trials whose leases were taken back."""
        try:
            return _expired(await self._submit(Sweep()))
        except TunesmithError:
            raise
        except Exception:  # a trial that cannot be taken back shall keep no other from it
            log.exception("sweeper.one_by_one")
        gone = _expired(await self._submit(Sweep(only=NONE)))
        for trial_id in await self._run_out():
            try:
                gone += _expired(await self._submit(Sweep(only=trial_id)))
            except TunesmithError:
                raise
            except Exception:
                log.exception("sweeper.trial_failed", trial_id=trial_id)
        return gone

    async def _rarely(self) -> None:
        now = self._monotonic()
        if now - self._noted >= NOTE_SECONDS:
            self._noted = now
            await self._note_use()
        if now - self._collected >= self._collect_seconds:
            self._collected = now
            if self._collecting is None or self._collecting.done():
                self._collecting = asyncio.create_task(_tried(self._collect), name="collecting")


async def _tried(do: Callable[[], Awaitable[None]]) -> None:
    """A failure is logged; the next time may be better."""
    try:
        await do()
    except TunesmithError as error:
        log.warning("sweeper.failed", error=error.detail)
    except Exception:
        log.exception("sweeper.failed")


def _expired(swept: object) -> tuple[int, ...]:
    assert isinstance(swept, Swept)
    return swept.expired
