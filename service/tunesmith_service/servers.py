"""The servers of one service: several `tunesmith serve` on one database, asked in turn.

Which of them answers does not matter: a lease is valid at each, and what one has committed the others read.
So each request goes to the next, and one that does not answer is passed over for a while. No server is
asked whether it is well: the requests themselves tell.
"""

from __future__ import annotations

import re
import ssl
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from random import Random
from typing import Any

import httpx

from tunesmith_service.exchange import CONNECT_SECONDS, READ_SECONDS, TryAgain, is_loopback

_SENT = re.compile(r"[\x21-\x7e]*")
COOL_SECONDS = 10.0
"""So long after a failure a server is asked only if no other is left."""

AWAY = (502, 503, 504)
"""Statuses of a server that ends, has lost its database, or of a proxy that does not reach it."""


class Servers:
    """Args:
        urls: the address of a server, or of several with commas between, such as
            "http://a:8787,http://b:8787".
        clock: in seconds.
    Raises: ValueError for what is no address.
    """

    def __init__(self, urls: str, random: Random, clock: Callable[[], float]) -> None:
        self._bases = [base(url.strip()) for url in urls.split(",")]
        self._clock = clock
        self._back_at = [float("-inf")] * len(self._bases)
        # Clients that start together shall not all begin with the same one.
        self._next = random.randrange(len(self._bases)) if len(self._bases) > 1 else 0

    def __str__(self) -> str:
        return " and ".join(url.removesuffix("/api/v1/") for url in self._bases)

    def options(self, token: str) -> dict[str, Any]:
        """What both kinds of httpx client are made with. Raises ValueError for a token that cannot be one:
        sent, it would fail as if the network had, and be tried again for ever."""
        if not _SENT.fullmatch(token):
            raise ValueError(
                "the token is not one: it holds blanks, line breaks or letters that no token has; "
                "copy it whole, and nothing else, such as tsm_5f0c8a3e9b7d4c21_…"
            )
        return {
            "headers": {"Authorization": f"Bearer {token}"},
            "timeout": httpx.Timeout(READ_SECONDS, connect=CONNECT_SECONDS, pool=None),
            "limits": httpx.Limits(max_connections=None, max_keepalive_connections=64),
            **way_to(*self._bases),
        }

    @contextmanager
    def ask(self) -> Iterator[str]:
        """What to put before a path of the API, for one request. A network error inside becomes `TryAgain`,
        at once and elsewhere where there is another server."""
        place = self._turn()
        try:
            yield self._bases[place]
        except httpx.TransportError as e:
            reason = str(e) or type(e).__name__
            url = self._bases[place].removesuffix("/api/v1/")
            trouble = TryAgain(f"no answer from {url}: {reason}; is the service running there?")
            trouble.elsewhere = self._pass_over(place)
            raise trouble from e
        except TryAgain as trouble:
            trouble.elsewhere = trouble.answered in AWAY and self._pass_over(place)
            raise

    def _turn(self) -> int:
        """The next that is not passed over; if all are, the one that has been for longest."""
        now, count = self._clock(), len(self._bases)
        if count == 1:
            return 0
        order = [(self._next + i) % count for i in range(count)]
        place = min(order, key=lambda i: max(0.0, self._back_at[i] - now))
        self._next = (place + 1) % count
        return place

    def _pass_over(self, place: int) -> bool:
        """From now on for a while. Returns: whether there is one that is not."""
        now = self._clock()
        self._back_at[place] = now + COOL_SECONDS
        return any(back_at <= now for back_at in self._back_at)


def way_to(*urls: str) -> dict[str, Any]:
    """What httpx is told of proxies and authorities for these addresses."""
    found = [httpx.URL(url) for url in urls]
    if not all(is_loopback(url.host) for url in found):
        return {"trust_env": True}
    # No proxy of the environment reaches this machine; an authority that it names may have signed its name.
    if any(url.scheme == "https" for url in found):
        return {"trust_env": False, "verify": httpx.create_ssl_context()}
    # Reading the machine's authorities takes up to 0.1 s, at each start of a command. This context has none,
    # so whatever would speak TLS by it fails.
    return {"trust_env": False, "verify": ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)}


def same_service(one: str, other: str) -> bool:
    """Whether two lists of addresses name a server in common."""
    return bool(_named(one) & _named(other))


def _named(urls: str) -> set[str]:
    return {url.strip().rstrip("/") for url in urls.split(",")}


def base(url: str) -> str:
    """What stands before a path of the API. Raises: ValueError for what is no address."""
    wanted = f"url is the service's address, such as http://127.0.0.1:8787, got {url!r}"
    try:
        found = httpx.URL(url)
    except httpx.InvalidURL as e:
        raise ValueError(f"{wanted}: {e}") from e
    if found.scheme not in ("http", "https") or not found.host:
        raise ValueError(wanted)
    return str(found.copy_with(path=f"{found.path.rstrip('/')}/api/v1/", query=None, fragment=None))
