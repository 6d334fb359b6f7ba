"""`client.Client` for programs that await: the same calls, the same errors, the same retries."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from pathlib import Path
from random import Random
from typing import Any, Self, TypeVar

import httpx

from tunesmith_service.calls import Call, Flow, answer, given
from tunesmith_service.errors import Refused
from tunesmith_service.exchange import (
    CHUNK_BYTES,
    HashedFile,
    Retries,
    Tries,
    TryAgain,
    failure,
    jitter,
)
from tunesmith_service.piping import pour
from tunesmith_service.servers import Servers
from tunesmith_service.study_handle import AsyncStudy

T = TypeVar("T")


class AsyncClient:
    """What programs ask of a service. Replies are the JSON of the API, as plain values; each method means
    what `client.Client`'s of its name does.

    Args:
        url: of the service, such as http://127.0.0.1:8787; several servers of one with commas between.
        retry_for: seconds to keep trying while the service does not answer; 0: one try alone.
    Raises (every call): `Refused` and its kinds as in `errors`; `Unavailable` when `retry_for` is up.
    """

    def __init__(
        self,
        url: str,
        token: str,
        *,
        retry_for: float = 10.0,
        transport: httpx.AsyncBaseTransport | None = None,
        random: Random | None = None,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        random = random or jitter()
        self.retries = Retries(random)
        self._servers = Servers(url, random, clock)
        self._http = httpx.AsyncClient(transport=transport, **self._servers.options(token))
        self._retry_for, self._clock, self._sleep = retry_for, clock, sleep

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        await self._http.aclose()

    async def study(self, name: str | int) -> AsyncStudy:
        return AsyncStudy(self, (await self.get("studies", name))["name"])

    async def studies(self) -> list[AsyncStudy]:
        return [AsyncStudy(self, found["name"]) async for found in self.pages("studies")]

    async def create(self, spec: Mapping[str, Any]) -> AsyncStudy:
        return AsyncStudy(self, (await self.post("studies", json=dict(spec)))["name"])

    async def get(self, *path: str | int, **query: str | int | float | bool | None) -> Any:
        return await self.call(Call("GET", path, query=query))

    async def post(
        self,
        *path: str | int,
        json: Any = None,
        headers: Mapping[str, str] | None = None,
        **query: str | int | float | bool | None,
    ) -> Any:
        return await self.call(Call("POST", path, json, query, headers=headers or {}))

    async def put(self, *path: str | int, json: Any = None, version: int | None = None) -> Any:
        return await self.call(Call("PUT", path, json, version=version))

    async def delete(self, *path: str | int, **query: str | int | float | bool | None) -> Any:
        return await self.call(Call("DELETE", path, query=query))

    async def pages(self, *path: str | int, **query: str | int | float | bool | None) -> AsyncIterator[Any]:
        while True:
            page = await self.get(*path, **query)
            for item in page["items"]:
                yield item
            if page.get("next_cursor") is None:
                return
            query["cursor"] = page["next_cursor"]

    async def download(
        self,
        *path: str | int,
        to: Path,
        sha256: str | None = None,
        **query: str | int | float | bool | None,
    ) -> None:
        call = Call("GET", path, query=query)

        async def once() -> None:
            with self._servers.ask() as base:
                async with self._http.stream("GET", base + call.path, params=given(query)) as response:
                    if not response.is_success:
                        await response.aread()
                        raise failure(response) or Refused(f"{call.path}: {response.status_code}")
                    with HashedFile(to, sha256) as file:
                        await pour(response.aiter_bytes(CHUNK_BYTES), file.write)
                        file.keep()

        await self._persist(once, self._retry_for)

    async def run(self, flow: Flow[T]) -> T:
        said: Any = None
        try:
            while True:
                step = flow.send(said)
                said = await (self.call(step) if isinstance(step, Call) else self._sleep(step.seconds))
        except StopIteration as end:
            result: T = end.value
            return result

    async def call(self, call: Call, *, retry_for: float | None = None) -> Any:
        options = call.options()

        async def once() -> Any:
            with self._servers.ask() as base:
                return answer(await self._http.request(call.method, base + call.path, **options))

        return await self._persist(once, self._retry_for if retry_for is None else retry_for)

    async def _persist(self, once: Callable[[], Awaitable[T]], retry_for: float) -> T:
        tries = Tries(self.retries, self._clock, retry_for)
        while True:
            try:
                return await once()
            except TryAgain as trouble:
                if (pause := tries.pause(trouble)) is not None:
                    await self._sleep(pause)
