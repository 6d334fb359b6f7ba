"""Keeps a lease alive. One task a lease, so that no upload starves it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from random import Random
from typing import NoReturn

import structlog
from tunesmith_service.client import Lease, Unavailable, WorkerClient


class Beats:
    """Beats every third of the TTL, ±10 %; a beat that fails is repeated within a third of it.

    Attributes:
        heard_at: when the newest beat that got an answer had been *sent*. The lease is surely ours
            until `heard_at` + TTL; past that the fence still protects the trial, so training goes on.
    """

    def __init__(
        self,
        client: WorkerClient,
        lease: Lease,
        ttl_seconds: float,
        *,
        random: Random,
        clock: Callable[[], float],
        log: structlog.stdlib.BoundLogger,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._client, self._lease, self._ttl = client, lease, ttl_seconds
        self._random, self._clock, self._log, self._sleep = random, clock, log, sleep
        self.heard_at = clock()
        self._tries = 0
        self._unheard = False

    def silent_seconds(self) -> float:
        return self._clock() - self.heard_at

    async def run(self) -> NoReturn:
        """Beat until cancelled. Raises: Refused when the lease is ours no more."""
        while True:
            await self._sleep(self._pause())
            sent_at = self._clock()
            try:
                renewed = await self._client.beat(self._lease)
            except Unavailable:
                self._note_silence()
                self._tries += 1
            else:
                self.heard_at, self._ttl = sent_at, renewed.ttl_seconds
                self._tries, self._unheard = 0, False

    def _pause(self) -> float:
        third = self._ttl / 3
        if self._tries:
            return self._client.retries.pause(self._tries, cap=third)
        return third * self._random.uniform(0.9, 1.1)

    def _note_silence(self) -> None:
        """One line when the lease can no longer be known to be ours."""
        if not self._unheard and self.silent_seconds() > self._ttl:
            self._unheard = True
            self._log.warning("lease_unheard", silent_seconds=round(self.silent_seconds(), 1))
