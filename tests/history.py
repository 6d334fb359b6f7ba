"""What clients asked and what they saw: the history that `invariants` and `linearizability` judge.

Every try of every request is one `Call`. A try that got no answer, or one that leaves open whether it was
carried out, is *maybe*: the service may have done it, then or later.
"""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import httpx
from tunesmith_service.tokens import hash_secret
from tunesmith_service.wire import LEASE_HEADER

UNDECIDED = (500, 502, 503, 504)
"""Statuses after which nobody knows whether it was done."""

API = "/api/v1/"

RECKONED = (b"content-encoding", b"content-length")
"""Headers that speak of bytes on the wire, which have been read by then."""


@dataclass(frozen=True, slots=True)
class Held:
    """The lease that a write carried; the secret by its hash, as the database has it."""

    trial_id: int
    incarnation: int
    attempt: int
    lease_hash: str


@dataclass(slots=True)
class Call:
    """One try of one request.

    Attributes:
        client: who sent it.
        what: for a lease's write its last word (`reports`, `finish`, …), else the path below /api/v1.
        begin, end: seconds of one clock for all clients; `end` is inf as long as nothing came back.
        status: None if nothing came back.
        served_us: the service's time when the request reached it, in µs; 0 where nobody knows it.
        brought: the report and the claim that a finish took along, each a call of its own to whoever judges.
    """

    client: str
    method: str
    what: str
    body: Any
    begin: float
    lease: Held | None = None
    end: float = math.inf
    status: int | None = None
    reply: Any = None
    served_us: int = 0
    brought: list[Call] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        return self.status is not None and 200 <= self.status < 300

    @property
    def maybe(self) -> bool:
        return self.status is None or self.status in UNDECIDED

    @property
    def refusal(self) -> str:
        """The name of the refusal, such as lease_lost; empty if there was none."""
        kind = self.reply.get("type", "") if isinstance(self.reply, dict) else ""
        return str(kind).removeprefix("urn:tunesmith:")

    @property
    def grant(self) -> dict[str, Any] | None:
        """What a claim was granted."""
        if self.what != "claims" or not self.ok:
            return None
        return self.reply["grant"]

    def line(self) -> str:
        """For people, and to compare two runs byte for byte."""
        said = json.dumps(self.body, sort_keys=True) if self.body is not None else "-"
        lease = f"{self.lease.trial_id}:{self.lease.incarnation}.{self.lease.attempt}" if self.lease else "-"
        if self.status is None:
            answer = "maybe"
        elif self.ok:
            answer = f"{self.status} {json.dumps(self.reply, sort_keys=True)}"
        else:
            answer = f"{self.status} {self.refusal}"
        asked = f"{self.client} {self.method} {self.what} {lease} {said}"
        return f"{self.begin:.6f} {self.end:.6f} {asked} → {answer}"


@dataclass(slots=True)
class History:
    """Calls in the order in which they began."""

    calls: list[Call] = field(default_factory=list)

    def begin(self, client: str, request: httpx.Request, body: bytes, now: float) -> Call:
        call = _call(client, request, body, now)
        if call.what == "finish":
            call.brought = list(_brought(call))
        self.calls += [call, *call.brought]
        return call

    def of(self, what: str) -> Iterator[Call]:
        return (c for c in self.calls if c.what == what)

    def text(self) -> str:
        return "\n".join(c.line() for c in self.calls) + "\n"


def end(call: Call, status: int, content: bytes, now: float) -> None:
    """Note the answer."""
    call.end, call.status, call.reply = now, status, _json(content)
    for one in call.brought:
        one.end, one.status, one.reply, one.served_us = now, status, call.reply, call.served_us
        if one.what == "claims" and call.ok:
            one.reply = call.reply["claim"]
            # None: it was refused, which only whoever sends it by itself is told.
            one.status = 409 if one.reply is None else 200


def _brought(finish: Call) -> Iterator[Call]:
    """With the finish as its answer says: a refused report refuses it, and a refused one gets nothing."""
    for name, what, lease in (("report", "reports", finish.lease), ("claim", "claims", None)):
        if (body := finish.body.get(name)) is not None:
            yield Call(finish.client, "POST", what, body, finish.begin, lease)


def _call(client: str, request: httpx.Request, body: bytes, now: float) -> Call:
    path = request.url.path.partition(API)[2]
    parts = path.split("/")
    if parts[0] != "leases":
        return Call(client, request.method, path, _json(body), now)
    incarnation, attempt, secret = request.headers[LEASE_HEADER].split(".")
    lease = Held(int(parts[1]), int(incarnation), int(attempt), hash_secret(secret).hex())
    what = "/".join(parts[2:])
    return Call(client, request.method, what, _json(body), now, lease)


def _json(content: bytes) -> Any:
    """The value, or only the length of what is no JSON."""
    if not content:
        return None
    try:
        return json.loads(content)
    except ValueError:
        return f"{len(content)} bytes"


class Recording(httpx.AsyncBaseTransport):
    """Passes requests on and notes them in a history.

    Args:
        clock: seconds, the same for all clients of the history; by default the loop's.
    """

    def __init__(
        self,
        inner: httpx.AsyncBaseTransport,
        history: History,
        client: str,
        clock: Callable[[], float] | None = None,
    ) -> None:
        self._inner, self._history, self._client = inner, history, client
        self._clock = clock or (lambda: asyncio.get_running_loop().time())

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        body = await request.aread()
        call = self._history.begin(self._client, request, body, self._clock())
        response = await self._inner.handle_async_request(request)
        content = await response.aread()
        end(call, response.status_code, content, self._clock())
        headers = [(k, v) for k, v in response.headers.raw if k.lower() not in RECKONED]
        return httpx.Response(response.status_code, headers=headers, content=content, request=request)

    async def aclose(self) -> None:
        await self._inner.aclose()
