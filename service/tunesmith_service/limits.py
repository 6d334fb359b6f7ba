"""How often somebody may do something, in this server's memory: for what costs us work or log lines.

Nothing that must hold rests on it: codes and tokens are too long to be guessed at any rate. A rate that
servers shared would cost a write for each request, which is more than what it protects from; so each
counts by itself, and behind n servers somebody may do n times as much.
"""

from __future__ import annotations

import ipaddress
import math
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from starlette.requests import Request

from tunesmith_service.errors import TooMany
from tunesmith_service.security import Role, Who
from tunesmith_service.settings import Settings
from tunesmith_service.wire import LEASE_HEADER

MOST_KEYS = 10_000
"""Of so many strangers we remember how often they came; the one who has been quiet longest is forgotten."""


class Limiter:
    """So many at once, and so many a minute; for each key by itself.

    Args:
        burst: so many at once.
        per_minute: one more after each 1 / `per_minute` of a minute.
        monotonic: seconds.
    """

    def __init__(
        self, burst: int, per_minute: float, monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        self._burst, self._every_seconds, self._monotonic = burst, 60 / per_minute, monotonic
        self._whole_at: OrderedDict[str, float] = OrderedDict()  # key → when its burst is whole again

    def take(self, key: str) -> int:
        """0 if it may be done now; else the seconds, rounded up, after which it may be tried again."""
        now = self._monotonic()
        whole_at = max(now, self._whole_at.get(key, now))
        wait = whole_at - now - (self._burst - 1) * self._every_seconds
        self._whole_at[key] = whole_at + (0 if wait > 0 else self._every_seconds)
        self._whole_at.move_to_end(key)
        if len(self._whole_at) > MOST_KEYS:
            self._whole_at.popitem(last=False)
        return max(0, math.ceil(wait))

    def forgive(self, key: str) -> None:
        """As if it had never come."""
        self._whole_at.pop(key, None)


def address_of(request: Request) -> str:
    """Where a request comes from. Of IPv6 the network: a house has 2^64 addresses."""
    host = request.client.host if request.client else ""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return host[:64]
    if isinstance(address, ipaddress.IPv6Address):
        address = address.ipv4_mapped or address
    if isinstance(address, ipaddress.IPv6Address):
        return str(ipaddress.ip_network((int(address), 64), strict=False))
    return str(address)


class Rates:
    """How often people and slots may ask.

    People are counted by token. One token serves many workers, so what those ask is counted by slot: writes
    by their lease, which one slot has at a time, claims by the slot that they name (`check_slot`). A worker's
    token is trusted to name its own.
    """

    def __init__(self, settings: Settings, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._people = Limiter(settings.person_burst, settings.person_rate * 60, monotonic)
        self._slots = Limiter(settings.slot_burst, settings.slot_rate * 60, monotonic)

    def check(self, who: Who, request: Request) -> None:
        """Raises: TooMany."""
        if who.role is not Role.WORKER:
            _take(self._people, who.key_id, "this token")
        elif (lease := request.headers.get(LEASE_HEADER)) is not None:
            trial_id = request.path_params.get("trial_id")
            _take(self._slots, f"{who.key_id} {trial_id} {hash(lease)}", "the holder of this lease")

    def check_slot(self, slot_id: str) -> None:
        """Raises: TooMany."""
        _take(self._slots, slot_id, "this slot")


def _take(limiter: Limiter, key: str, who: str) -> None:
    if wait := limiter.take(key):
        raise TooMany(f"{who} asks too often; send it again in {wait} s", retry_after_seconds=wait)


class Uploads:
    """How many run at once. They hold no place (`places`): what they wait for is mostly the network."""

    def __init__(self, most: int) -> None:
        self._most = most
        self.running = 0

    @contextmanager
    def one(self) -> Iterator[None]:
        """Raises: TooMany."""
        if self.running >= self._most:
            raise TooMany(f"{self.running} uploads run already; try again in a moment", retry_after_seconds=5)
        self.running += 1
        try:
            yield
        finally:
            self.running -= 1
