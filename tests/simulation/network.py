"""A network between clients and the server: it delays, drops, repeats and reorders, and notes what it did."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextvars import Context
from dataclasses import dataclass
from random import Random

import httpx
from history import Call, History, end

from simulation.loop import Process, VirtualLoop

HOURS = 3 * 3600.0
"""The longest that a copy of a request is under way."""

Answer = Callable[[httpx.Request], Awaitable[httpx.Response]]


@dataclass(slots=True)
class Weather:
    """How often, of all messages, and how long.

    Attributes:
        drop_request, drop_answer, repeat: shares of messages.
        slow: share of messages that take up to `slow_seconds`.
    """

    drop_request: float = 0.0
    drop_answer: float = 0.0
    repeat: float = 0.0
    slow: float = 0.0
    slow_seconds: float = 20.0


@dataclass(slots=True)
class Late:
    """A copy of a request that is still under way."""

    request: httpx.Request
    body: bytes
    call: Call


class Network:
    """Between all clients and the one address at which a server may be.

    Attributes:
        weather: may be changed at any time.
        late: copies that will arrive only once everything else is over, hours later.
    """

    def __init__(self, loop: VirtualLoop, random: Random, history: History) -> None:
        self._loop, self._random, self._history = loop, random, history
        self.weather = Weather()
        self.late: list[Late] = []
        self._server: Process | None = None
        self._answer: Answer | None = None
        self._now_us: Callable[[], int] = lambda: 0
        self._cut: set[str] = set()

    def serve(self, server: Process, answer: Answer, now_us: Callable[[], int]) -> None:
        """From here on requests reach this server, whose time is `now_us`, until it is killed."""
        self._server, self._answer, self._now_us = server, answer, now_us

    def close(self) -> None:
        """Nothing reaches a server any more."""
        self._server = None

    def cut_off(self, client: str) -> None:
        """A partition: nothing of this client's arrives any more."""
        self._cut.add(client)

    def join(self, client: str) -> None:
        self._cut.discard(client)

    async def send(self, client: str, request: httpx.Request) -> httpx.Response:
        """What the client gets. Raises: httpx.TransportError, as a client sees a network."""
        body = await request.aread()
        call = self._history.begin(client, request, body, self._loop.time())
        patience = request.extensions.get("timeout", {}).get("read") or 3600.0
        if self._happens(self.weather.repeat):
            self._repeat(client, request, body)
        try:
            async with asyncio.timeout(patience):
                await self._travel(client, self.weather.drop_request)
                response = await self._deliver(request, body, call)
                await self._travel(client, self.weather.drop_answer)
        except TimeoutError:
            raise httpx.ReadTimeout("no answer in time", request=request) from None
        end(call, response.status_code, response.content, self._loop.time())
        headers = [(k, v) for k, v in response.headers.raw if k.lower() == b"retry-after"]
        return httpx.Response(
            response.status_code, headers=headers, content=response.content, request=request
        )

    async def deliver_late(self) -> None:
        """Let every copy that is still under way arrive, in any order."""
        late, self.late = self.late, []
        self._random.shuffle(late)
        for copy in late:
            response = await self._deliver(copy.request, copy.body, copy.call)
            end(copy.call, response.status_code, response.content, self._loop.time())

    # --- one message ---

    async def _travel(self, client: str, drop: float) -> None:
        weather = self.weather
        seconds = self._random.uniform(0.0005, 0.02)
        if self._happens(weather.slow):
            seconds += self._random.uniform(0.0, weather.slow_seconds)
        await asyncio.sleep(seconds)
        if client in self._cut or self._happens(drop):
            await asyncio.sleep(HOURS)  # nothing comes: the client's patience ends first

    def _happens(self, share: float) -> bool:
        return self._random.random() < share

    async def _deliver(self, request: httpx.Request, body: bytes, call: Call) -> httpx.Response:
        """Hand a message to the server and wait for what it says.

        Raises: httpx.ConnectError if none is there, httpx.ReadError if it is killed meanwhile.
        """
        server, answer = self._server, self._answer
        if server is None or answer is None or not server.is_alive:
            raise httpx.ConnectError("nobody listens there", request=request)
        call.served_us = self._now_us()
        copy = httpx.Request(request.method, request.url, headers=request.headers, content=body)
        answered: asyncio.Future[httpx.Response] = self._loop.create_future()

        async def work() -> None:
            response = await answer(copy)
            if not answered.done():
                answered.set_result(response)

        def broken() -> None:
            if not answered.done():
                answered.set_exception(httpx.ReadError("the connection broke", request=request))

        server.on_kill.append(broken)
        task = server.spawn(work())
        task.add_done_callback(lambda t: broken() if t.cancelled() or t.exception() else None)
        return await answered

    # --- copies ---

    def _repeat(self, client: str, request: httpx.Request, body: bytes) -> None:
        """Another copy of the request will arrive, soon or hours later. Its answer goes nowhere."""
        call = self._history.begin(f"copy of {client}", request, body, self._loop.time())
        if self._happens(0.3):
            self.late.append(Late(request, body, call))
            return

        async def arrive() -> None:
            await asyncio.sleep(self._random.expovariate(1 / 15.0))
            try:
                response = await self._deliver(request, body, call)
            except httpx.TransportError:
                return
            end(call, response.status_code, response.content, self._loop.time())

        self._loop.create_task(arrive(), context=Context())  # of no process: it outlives its sender


class Line(httpx.AsyncBaseTransport):
    """One client's end of the network."""

    def __init__(self, network: Network, client: str) -> None:
        self._network, self._client = network, client

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        return await self._network.send(self._client, request)
