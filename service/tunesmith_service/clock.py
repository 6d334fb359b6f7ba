"""The service's clock: integer microseconds since 1970, read in one place and passed on as a value.

Within a process time follows the monotonic clock, so setting the machine's clock moves nothing at
once. `SystemClock.resync` looks at the wall again and says how far it had jumped; the sweeper then
gives running leases grace.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Protocol

SECOND = 1_000_000
"""One second in the service's unit, the microsecond."""

JUMP_US = 5 * SECOND
"""A wall clock this far from ours has been set, or the machine slept; less is drift."""


def wall_us() -> int:
    return time.time_ns() // 1000


class Clock(Protocol):
    """What reads the time: `now_us()` never goes back within a process."""

    def now_us(self) -> int: ...


class SystemClock:
    """Wall time at the start, then the monotonic clock; never before `floor_us`.

    Args:
        floor_us: newest time that the database has seen; a machine whose clock was set back while
            the server was down goes on from there.
        wall: reads the wall clock; with PostgreSQL the database's, so that all servers agree.
    """

    def __init__(self, floor_us: int = 0, wall: Callable[[], int] = wall_us) -> None:
        self._wall = wall
        self._offset_us = max(wall(), floor_us) - time.monotonic_ns() // 1000
        self._behind_us = 0  # how far the wall was behind us when we last followed it or let it go

    def now_us(self) -> int:
        return time.monotonic_ns() // 1000 + self._offset_us

    def resync(self) -> int:
        """How far the wall has jumped since the last look, 0 if by less than JUMP_US or only back to us. A
        jump ahead of us is followed; after one back our time goes on from where it is."""
        ahead = self._wall() - self.now_us()
        jumped = ahead + self._behind_us
        if abs(jumped) <= JUMP_US:
            return 0
        self._behind_us = max(-ahead, 0)
        if ahead > 0:
            self._offset_us += ahead
            return ahead
        return min(jumped, 0)


class ManualClock:
    """A clock that a test turns by hand."""

    def __init__(self, now_us: int = 1_750_000_000 * SECOND) -> None:
        self._now_us = now_us

    def now_us(self) -> int:
        return self._now_us

    def advance(self, us: int) -> None:
        if us < 0:
            raise ValueError(f"time does not go back, got {us} µs")
        self._now_us += us
