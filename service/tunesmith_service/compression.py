"""Pages, their parts and JSON go out gzipped to whoever takes that: text shrinks to a fifth.

Only answers whose body is there in one piece: streams of events and files are passed on as they are, as is
what is compressed already. A page's secret is masked anew in each answer (`security.masked`), for an attacker
who can put text of theirs beside a secret learns it from lengths (BREACH).
"""

from __future__ import annotations

import gzip

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

KINDS = (
    "text/html",
    "text/plain",
    "text/csv",
    "text/markdown",
    "application/json",
    "application/problem+json",
)
FEWEST_BYTES = 1_000
"""A shorter answer fits a packet as it is."""
LEVEL = 5


class Compression:
    """Between the front door and the routes."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or not takes_gzip(Headers(scope=scope)):
            await self._app(scope, receive, send)
            return
        start: Message | None = None

        async def compressed(message: Message) -> None:
            nonlocal start
            if message["type"] == "http.response.start" and _gains(message):
                start = message  # held until its body is seen; a stream of events must not wait for one
                return
            if start is not None:
                _shrink(start, message)
                await send(start)
                start = None
            await send(message)

        await self._app(scope, receive, compressed)


def takes_gzip(headers: Headers) -> bool:
    """
    >>> takes_gzip(Headers({"accept-encoding": "br, gzip;q=0.8"})), takes_gzip(Headers({}))
    (True, False)
    >>> takes_gzip(Headers({"accept-encoding": "gzip;q=0"}))
    False
    """
    for offer in headers.get("accept-encoding", "").lower().split(","):
        name, _, weight = offer.partition(";")
        if name.strip() == "gzip":
            return weight.strip().replace(" ", "") not in ("q=0", "q=0.0", "q=0.00", "q=0.000")
    return False


def _gains(start: Message) -> bool:
    headers = Headers(raw=start["headers"])
    return headers.get("content-type", "").partition(";")[0] in KINDS and "content-encoding" not in headers


def _shrink(start: Message, body: Message) -> None:
    """Compress an answer in place, unless it is short or comes in pieces."""
    headers = MutableHeaders(raw=list(start["headers"]))
    headers.add_vary_header("Accept-Encoding")
    content: bytes = body.get("body", b"")
    if not body.get("more_body", False) and len(content) >= FEWEST_BYTES:
        body["body"] = gzip.compress(content, LEVEL, mtime=0)
        headers["Content-Encoding"] = "gzip"
        headers["Content-Length"] = str(len(body["body"]))
    start["headers"] = headers.raw
