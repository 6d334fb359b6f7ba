"""How many requests are worked on at once, and who is sent away first when there are too many.

A request holds a place from its arrival to its answer. Of the places a quarter is reserved for what keeps
or ends a lease, so that overload never costs one. Whoever finds no place waits in a line; the lines are
served the most urgent first, and each may be joined while fewer wait, in all of them, than its share of
the waiting room: so what comes under load is refused in the order of `Priority`.

    waiting, of 128      0 … 24        … 48      … 72     … 96      … 128
    refused              nobody        dashboard create   claim     report

What waits for something else than us holds no place: a parked claim, a stream of events, an upload, and a
file on its way out give theirs back (`Place.leave`). Everything happens on the event loop.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter, deque
from collections.abc import Callable, Mapping
from enum import IntEnum

import structlog

from tunesmith_service.errors import TooMany

log = structlog.get_logger(__name__)


class Priority(IntEnum):
    """What a request is worth under load; the least is refused first. See `security.Policy.priority`."""

    DASHBOARD = 0  # pages, and whatever else reads
    CREATE = 1  # what people change
    CLAIM = 2
    REPORT = 3  # whatever else the holder of a lease says
    KEEP = 4  # beat, finish, release: without them leases expire

    @property
    def label(self) -> str:
        return self.name.lower()


RETRY_AFTER_SECONDS: Mapping[Priority, int] = {
    Priority.DASHBOARD: 5,
    Priority.CREATE: 3,
    Priority.CLAIM: 2,
    Priority.REPORT: 1,
    Priority.KEEP: 1,
}
"""Who matters least stays away longest."""

RESERVED_SHARE = 4
"""One place in so many is reserved, and one in so many of those where requests wait."""

SAY_EVERY_SECONDS = 1.0
"""Refusals are a line in the log no more often than this: a line for each would cost more than refusing."""


class Place:
    """Held by one request."""

    __slots__ = ("_give_back", "_is_held")

    def __init__(self, give_back: Callable[[], None]) -> None:
        self._give_back, self._is_held = give_back, True

    def leave(self) -> None:
        """Give the place to whoever waits. Once is enough; again does nothing."""
        if self._is_held:
            self._is_held = False
            self._give_back()


class Places:
    """Args:
    in_flight: places in all.
    waiting: how many may wait for one.
    waiting_seconds: after which whoever waits is sent away.
    """

    def __init__(self, in_flight: int, waiting: int, waiting_seconds: float) -> None:
        self._reserved = in_flight // RESERVED_SHARE
        self._common = in_flight - self._reserved
        self._in_common = self._in_reserved = self._in_line = 0
        common_room = waiting - waiting // RESERVED_SHARE
        self._room = {p: common_room * (p + 1) // Priority.KEEP for p in Priority} | {Priority.KEEP: waiting}
        self._waiting_seconds = waiting_seconds
        self._lines: dict[Priority, deque[asyncio.Future[Place]]] = {p: deque() for p in Priority}
        self.shed: Counter[Priority] = Counter()
        self.refused_on_connection = 0  # of those that were shed; see `quick_refusals`
        self._said: Counter[Priority] = Counter()
        self._say_at = 0.0

    @property
    def in_flight(self) -> int:
        return self._in_common + self._in_reserved

    @property
    def waiting(self) -> int:
        return self._in_line

    @property
    def is_crowded(self) -> bool:
        """Whether it matters by now who comes: all places but the reserved ones are held."""
        return self._in_common >= self._common

    def refuses(self, priority: Priority) -> bool:
        """Whether a request that came now would be sent away at once."""
        return not self._is_free(priority) and self._in_line >= self._room[priority]

    async def enter(self, priority: Priority) -> Place:
        """A place, waited for if need be. Raises: TooMany."""
        if self._is_free(priority):
            return self._take(priority)
        if self._in_line >= self._room[priority]:
            raise self.refusal(priority)
        return await self._wait(priority)

    def refusal(self, priority: Priority) -> TooMany:
        """What a request that is sent away is told. Counts it."""
        self.shed[priority] += 1
        if (now := time.monotonic()) >= self._say_at:
            self._say_at = now + SAY_EVERY_SECONDS
            log.warning("requests.shed", **{p.label: n for p, n in sorted((self.shed - self._said).items())})
            self._said = self.shed.copy()
        return TooMany(TOLD, retry_after_seconds=RETRY_AFTER_SECONDS[priority])

    def _is_free(self, priority: Priority) -> bool:
        return self._in_common < self._common or (
            priority is Priority.KEEP and self._in_reserved < self._reserved
        )

    def _take(self, priority: Priority) -> Place:
        """A place of those that are free, a reserved one last."""
        if self._in_common < self._common:
            self._in_common += 1
            return Place(self._leave_common)
        assert priority is Priority.KEEP
        self._in_reserved += 1
        return Place(self._leave_reserved)

    def _leave_common(self) -> None:
        self._in_common -= 1
        self._hand_on()

    def _leave_reserved(self) -> None:
        self._in_reserved -= 1
        self._hand_on()

    def _hand_on(self) -> None:
        """Give what is free to those who wait, the most urgent first, each line in order of arrival."""
        if not self._in_line:
            return
        for priority in reversed(Priority):
            line = self._lines[priority]
            while line and self._is_free(priority):
                self._in_line -= 1
                line.popleft().set_result(self._take(priority))

    async def _wait(self, priority: Priority) -> Place:
        loop = asyncio.get_running_loop()
        turn: asyncio.Future[Place] = loop.create_future()
        line = self._lines[priority]
        line.append(turn)
        self._in_line += 1

        def give_up() -> None:
            if not turn.done():
                self._step_out(line, turn)
                turn.set_exception(self.refusal(priority))

        timer = loop.call_later(self._waiting_seconds, give_up)
        try:
            return await turn
        except asyncio.CancelledError:
            if turn.cancelled():
                self._step_out(line, turn)
            elif turn.exception() is None:  # the turn had come in the same moment
                turn.result().leave()
            raise
        finally:
            timer.cancel()

    def _step_out(self, line: deque[asyncio.Future[Place]], turn: asyncio.Future[Place]) -> None:
        line.remove(turn)
        self._in_line -= 1


TOLD = "the server has more requests than it can work on; send this one again after Retry-After seconds"
