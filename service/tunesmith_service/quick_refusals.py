"""Refusing a request for a hundredth of what answering it costs: on its connection, as bytes.

While a server sends requests away it gets many more than it can answer, so what a refusal costs decides how
much is still done: through the framework it costs a tenth of an answer, and at ten times the load nothing
would be left. So `data_received` reads just the head of a request, and if that is one to refuse, writes an
answer that was made beforehand. It reads a head only where no two readers could differ about where the
request ends; anything else goes the usual way, and is refused there.

Even that costs what a few in a hundred answers do, so a connection that was refused is not read for a moment:
whoever asks again at once waits in the kernel, where it costs nothing.
"""

from __future__ import annotations

import asyncio
import re
import secrets
from collections.abc import Mapping
from typing import Any, NamedTuple, cast

import h11
from starlette.requests import Request
from uvicorn.protocols.http.h11_impl import H11Protocol

from tunesmith_service import problems
from tunesmith_service.errors import TooMany
from tunesmith_service.headers import REQUEST_ID_HEADER, harden
from tunesmith_service.places import RETRY_AFTER_SECONDS, TOLD, Priority
from tunesmith_service.shedding import Shedding

MOST_BODY_BYTES = 2**20
"""A longer body goes the usual way."""

DEAF_SECONDS = 1.0
"""A refused connection is not read for so long: no longer, since a client may send a heartbeat on it next."""

_LINE = re.compile(rb"(GET|POST|PUT|PATCH|DELETE) (/[!-~]*) HTTP/1\.1\r\n")
_UNSURE = (b"transfer-encoding", b"expect:", b"upgrade:", b"connection: close")


class Head(NamedTuple):
    """What a refusal needs to know of a request.

    Attributes:
        path: as sent, without the query.
        size: bytes of the head.
        body: bytes that follow it.
    """

    method: str
    path: str
    authorization: str
    size: int
    body: int


def read_head(data: bytes) -> Head | None:
    """The head of the request that `data` begins with; None unless it is whole and beyond doubt.

    >>> read_head(b"GET /ui/studies?q=1 HTTP/1.1\\r\\nHost: x\\r\\n\\r\\n")
    Head(method='GET', path='/ui/studies', authorization='', size=42, body=0)
    >>> read_head(b"POST / HTTP/1.1\\r\\nTransfer-Encoding: chunked\\r\\n\\r\\n")
    """
    end = data.find(b"\r\n\r\n")
    line = _LINE.match(data)
    if end < 0 or line is None:
        return None
    head = data[: end + 2]
    lowered = head.lower()
    if any(word in lowered for word in _UNSURE) or head.count(b"\n") != head.count(b"\r\n"):
        return None
    length = _value(b"content-length", lowered, lowered)
    authorization = _value(b"authorization", lowered, head)
    if length is None or authorization is None:
        return None
    if length and not (length.isdigit() and len(length) < 8 and int(length) <= MOST_BODY_BYTES):
        return None
    return Head(
        method=line[1].decode(),
        path=line[2].partition(b"?")[0].decode(),
        authorization=authorization.decode("latin-1"),
        size=end + 4,
        body=int(length or 0),
    )


def _value(name: bytes, lowered: bytes, head: bytes) -> bytes | None:
    """A header's value as it stands in `head`; empty if it is not there, None if that is in doubt."""
    times = lowered.count(name)
    if times == 0:
        return b""
    at = lowered.find(b"\r\n" + name + b":")
    if times > 1 or at < 0:
        return None
    begin = at + len(name) + 3
    return head[begin : head.index(b"\r\n", begin)].strip(b" \t") or None


class Corked:
    """A transport that sends what is written in one turn of the loop as one piece: an answer's head and body
    take one call of the system."""

    MOST_BYTES = 2**16

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        self._transport, self._loop = transport, loop
        self._written: list[bytes] = []
        self._size = 0

    def write(self, data: bytes) -> None:
        if not self._written:
            self._loop.call_soon(self._send)
        self._written.append(data)
        self._size += len(data)
        if self._size > self.MOST_BYTES:
            self._send()

    def _send(self) -> None:
        if self._written:
            data = b"".join(self._written)
            self._written.clear()
            self._size = 0
            self._transport.write(data)

    def close(self) -> None:
        self._send()
        self._transport.close()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)


class QuickRefusals(H11Protocol):
    """uvicorn's protocol, but requests that are to be refused do not reach it."""

    shedding: Shedding
    _unread = 0  # bytes of a refused request's body that are still to come

    def connection_made(self, transport: Any) -> None:
        super().connection_made(cast(asyncio.Transport, Corked(transport, self.loop)))

    def data_received(self, data: bytes) -> None:
        if self._unread:
            skipped = min(self._unread, len(data))
            self._unread -= skipped
            data = data[skipped:]
        while data and self.shedding.is_refusing and self._is_between_requests():
            head = read_head(data)
            refused = self.shedding.refused(head.method, head.path, head.authorization) if head else None
            if head is None or refused is None:
                break
            self._refuse(refused)
            rest = len(data) - head.size
            self._unread = max(0, head.body - rest)
            data = data[head.size + head.body :]
        if data:
            super().data_received(data)

    def _is_between_requests(self) -> bool:
        """Whether what comes now begins a request."""
        return (
            (self.cycle is None or self.cycle.response_complete)
            and self.conn.their_state is h11.IDLE
            and not self.conn.trailing_data[0]
        )

    def _refuse(self, priority: Priority) -> None:
        first, last = _ANSWERS[priority]
        dated = b"".join(b"%s: %s\r\n" % pair for pair in self.server_state.default_headers)
        self.transport.write(first + secrets.token_hex(8).encode() + b"\r\n" + dated + last)
        self.flow.pause_reading()
        self.loop.call_later(DEAF_SECONDS, self.flow.resume_reading)
        self._unset_keepalive_if_required()
        self.timeout_keep_alive_task = self.loop.call_later(
            self.timeout_keep_alive, self.timeout_keep_alive_handler
        )


def refusing(shedding: Shedding) -> type[QuickRefusals]:
    """The protocol of a server, to be given to uvicorn."""
    return type("Refusing", (QuickRefusals,), {"shedding": shedding})


def _answer(priority: Priority) -> tuple[bytes, bytes]:
    """What is sent before and after the request's id: the answer that the error handler would give."""
    scope: dict[str, Any] = {"type": "http", "scheme": "http", "headers": [], "state": {}}
    seconds = RETRY_AFTER_SECONDS[priority]
    answer = problems.answer(Request(scope), TooMany(TOLD, retry_after_seconds=seconds))
    harden(answer.headers, scope)
    headers = b"".join(b"%s: %s\r\n" % pair for pair in answer.raw_headers)
    first = b"HTTP/1.1 429 Too Many Requests\r\n" + REQUEST_ID_HEADER.lower().encode() + b": "
    return first, headers + b"\r\n" + bytes(answer.body)


_ANSWERS: Mapping[Priority, tuple[bytes, bytes]] = {p: _answer(p) for p in Priority}
