"""The wire over HTTP: `WorkerClient` for supervisors (async), `Client` for people and the command line, and
`AsyncClient` for programs that await.

All share one place for timeouts, retries and the way back from a problem document to the exception
of `errors` that the service refused with. Network errors, 408, 425, 429 and every 5xx but 507 are
tried again with full jitter; what is still failing when the time is up is raised as `Unavailable`.
Every call is safe to repeat: workers' writes carry claim ids and sequence numbers, and what people
create carries an Idempotency-Key that stays the same over the retries of one call.

Random source, clock and sleep are passed in, so a seeded simulation can drive a client.
"""

from __future__ import annotations

import asyncio
import math
import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from random import Random
from types import TracebackType
from typing import Any, Self, TypeVar

import httpx
from pydantic import BaseModel

from tunesmith_service import wire
from tunesmith_service.asking import AskedTrial, Asker
from tunesmith_service.async_client import AsyncClient
from tunesmith_service.calls import Call, Flow, answer, given
from tunesmith_service.direct import Direct, chunks
from tunesmith_service.errors import (
    AlreadyFinal,
    ClaimStale,
    Conflict,
    Forbidden,
    LeaseLost,
    NoSpace,
    NotFound,
    Refused,
    SeqGap,
    SnapshotReused,
    Superseded,
    TooLarge,
    TunesmithError,
    Unauthorized,
    Unavailable,
)
from tunesmith_service.exchange import (
    BEAT_SECONDS,
    CHUNK_BYTES,
    CONNECT_SECONDS,
    READ_SECONDS,
    TRANSFER_SECONDS,
    CorruptDownloadError,
    HashedFile,
    Retries,
    Tries,
    TryAgain,
    failure,
    jitter,
    read,
)
from tunesmith_service.piping import pour
from tunesmith_service.servers import Servers, same_service
from tunesmith_service.study_flows import StudyBlockedError
from tunesmith_service.study_handle import AsyncStudy, Study

__all__ = [
    "AlreadyFinal",
    "AskedTrial",
    "AsyncClient",
    "AsyncStudy",
    "ClaimStale",
    "Client",
    "Conflict",
    "CorruptDownloadError",
    "Forbidden",
    "Lease",
    "LeaseLost",
    "NoSpace",
    "NotFound",
    "Refused",
    "Retries",
    "SeqGap",
    "SnapshotReused",
    "Study",
    "StudyBlockedError",
    "Superseded",
    "TooLarge",
    "TunesmithError",
    "Unauthorized",
    "Unavailable",
    "WorkerClient",
    "same_service",
]

DIRECT_TRIES = 3
"""So often a file is sent to the store, or fetched there, before it goes through the service."""

T = TypeVar("T")
M = TypeVar("M", bound=BaseModel)


@dataclass(frozen=True, slots=True)
class Lease:
    """What a worker's write must carry to be accepted."""

    trial_id: int
    incarnation: int
    attempt: int
    secret: str

    @property
    def headers(self) -> dict[str, str]:
        return {wire.LEASE_HEADER: f"{self.incarnation}.{self.attempt}.{self.secret}"}


class WorkerClient:
    """A supervisor's side of the wire. Each call is tried until it is answered, or for `retry_for` seconds.

    Args:
        url: of the service, such as http://127.0.0.1:8787; several servers of one with commas between,
            which are asked in turn.
        on_trouble: told about each failed try that will be repeated, with the pause in seconds; and
            with None when a repeated one was answered.
    Raises (every call): `Refused` and its kinds as in `errors`; `Unavailable` when `retry_for` is up.
    """

    def __init__(
        self,
        url: str,
        token: str,
        *,
        transport: httpx.AsyncBaseTransport | None = None,
        random: Random | None = None,
        clock: Callable[[], float] | None = None,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        on_trouble: Callable[[Unavailable | None, float], None] = lambda failure, pause: None,
    ) -> None:
        random = random or jitter()
        self.retries = Retries(random)
        self._clock = clock or (lambda: asyncio.get_running_loop().time())
        self._servers = Servers(url, random, self._clock)
        self._http = httpx.AsyncClient(transport=transport, **self._servers.options(token))
        self._sleep = sleep
        self._on_trouble = on_trouble
        self._direct: Direct | None = None  # once the service says that bytes may go past it

    async def aclose(self) -> None:
        await self._http.aclose()
        if self._direct is not None:
            await self._direct.aclose()

    async def register(self, body: wire.Register) -> wire.Registered:
        told = await self._call("PUT", f"workers/{body.worker_id}", body, wire.Registered)
        if told.direct_transfers and self._direct is None:
            self._direct = Direct()
        return told

    async def claim(self, body: wire.ClaimRequest, *, retry_for: float = math.inf) -> wire.ClaimReply:
        """A long poll. A claim whose answer got lost is repeated with its id and gets the same lease."""
        timeout = body.wait_seconds + READ_SECONDS
        return await self._call(
            "POST", "claims", body, wire.ClaimReply, read_timeout=timeout, retry_for=retry_for
        )

    async def beat(self, lease: Lease) -> wire.Renewed:
        """One try at each server: the caller must know when the beat that was answered had been sent."""
        return await self._call(
            "POST", _of(lease, "heartbeat"), wire.Heartbeat(), wire.Renewed,
            lease=lease, read_timeout=BEAT_SECONDS, retry_for=0,
        )  # fmt: skip

    async def report(self, lease: Lease, body: wire.Report) -> wire.Reported:
        return await self._call("POST", _of(lease, "reports"), body, wire.Reported, lease=lease)

    async def log(self, lease: Lease, body: wire.LogChunk) -> wire.Reported:
        return await self._call("POST", _of(lease, "logs"), body, wire.Reported, lease=lease)

    async def commit_snapshot(self, lease: Lease, body: wire.CommitSnapshot) -> wire.Reported:
        return await self._call("POST", _of(lease, "snapshots"), body, wire.Reported, lease=lease)

    async def commit_artifact(self, lease: Lease, body: wire.CommitArtifact) -> wire.Reported:
        return await self._call("POST", _of(lease, "artifacts"), body, wire.Reported, lease=lease)

    async def finish(self, lease: Lease, body: wire.Finish) -> wire.Finished:
        return await self._call("POST", _of(lease, "finish"), body, wire.Finished, lease=lease)

    async def release(self, lease: Lease, body: wire.Release) -> wire.Finished:
        return await self._call("POST", _of(lease, "release"), body, wire.Finished, lease=lease)

    async def put_blob(self, lease: Lease, path: Path, sha256: str) -> None:
        """Send a file's bytes, read as they go, to the service or where it says. The same bytes again are a
        no-op."""
        size = os.stat(path).st_size
        asked = wire.AskUpload(sha256=sha256, size=size)

        async def directly(direct: Direct) -> bool:
            to = await self._call("POST", _of(lease, "uploads"), asked, wire.Upload, lease=lease)
            if to.url is not None:
                await direct.send(path, to)
            return to.stored or to.url is not None

        if await self._past_the_service(directly):
            return

        async def once() -> None:
            await self._try(
                "PUT", _of(lease, f"blobs/{sha256}"),
                content=chunks(path), read_timeout=TRANSFER_SECONDS,
                headers={**lease.headers, "Content-Length": str(size),
                         "Content-Type": "application/octet-stream"},
            )  # fmt: skip

        await self._persist(once)

    async def fetch_snapshot(self, lease: Lease, sha256: str, path: Path) -> None:
        """Bring a snapshot to `path`, which appears only once its bytes hash to `sha256`.

        Raises: CorruptDownloadError; the call may be repeated.
        """

        async def directly(direct: Direct) -> bool:
            at = await self._call("GET", _of(lease, f"downloads/{sha256}"), None, wire.Download, lease=lease)
            if at.url is not None:
                await direct.fetch(at.url, path, sha256)
            return at.url is not None

        if await self._past_the_service(directly):
            return

        async def once() -> None:
            target = _of(lease, f"snapshots/{sha256}")
            with self._servers.ask() as base:
                async with self._http.stream("GET", base + target, headers=lease.headers) as response:
                    if not response.is_success:
                        await response.aread()
                        raise failure(response) or Refused(f"{target}: {response.status_code}")
                    with HashedFile(path, sha256) as file:
                        await pour(response.aiter_bytes(), file.write)
                        file.keep()

        await self._persist(once)

    async def _past_the_service(self, transfer: Callable[[Direct], Awaitable[bool]]) -> bool:
        """Whether bytes went directly. After a few tries they go through the service: this machine may not
        reach the store, and whether the store is away, the service knows."""
        if self._direct is None:
            return False
        for tries in range(1, DIRECT_TRIES + 1):
            try:
                done = await transfer(self._direct)
            except TryAgain as trouble:
                pause = self.retries.pause(tries) if tries < DIRECT_TRIES else 0.0
                self._on_trouble(trouble, pause)
                await self._sleep(pause)
            else:
                if tries > 1:
                    self._on_trouble(None, 0.0)
                return done
        return False

    async def _call(
        self, method: str, path: str, body: BaseModel | None, model: type[M], *, lease: Lease | None = None,
        read_timeout: float = READ_SECONDS, retry_for: float = math.inf,
    ) -> M:  # fmt: skip
        headers = {"Content-Type": "application/json", **(lease.headers if lease else {})}
        content = body.model_dump_json().encode() if body else b""

        async def once() -> M:
            return read(
                await self._try(method, path, content=content, headers=headers, read_timeout=read_timeout),
                model,
            )

        return await self._persist(once, retry_for)

    async def _try(
        self, method: str, path: str, *, content: bytes | AsyncIterator[bytes],
        headers: Mapping[str, str], read_timeout: float,
    ) -> httpx.Response:  # fmt: skip
        timeout = httpx.Timeout(READ_SECONDS, connect=CONNECT_SECONDS, read=read_timeout, pool=None)
        with self._servers.ask() as base:
            response = await self._http.request(
                method, base + path, content=content, headers=dict(headers), timeout=timeout
            )
            if (refused := failure(response)) is not None:
                raise refused
            return response

    async def _persist(self, once: Callable[[], Awaitable[T]], retry_for: float = math.inf) -> T:
        self.retries.earn()
        started, tries = self._clock(), 0
        while True:
            try:
                answer = await once()
            except TryAgain as trouble:
                if trouble.elsewhere:
                    continue
                tries += 1
                if self._clock() - started >= retry_for:
                    raise
                pause = self.retries.pause(tries, retry_after=trouble.retry_after)
                self._on_trouble(trouble, pause)
                await self._sleep(pause)
            else:
                if tries:
                    self._on_trouble(None, 0.0)
                return answer


def _of(lease: Lease, what: str) -> str:
    return f"leases/{lease.trial_id}/{what}"


class Client:
    """What people and the command line ask of a service. Replies are the JSON of the API, as plain values.

    Args:
        url: as of `WorkerClient`.
        retry_for: seconds to keep trying while the service does not answer; 0: one try alone.
    Raises (every call): `Refused` and its kinds as in `errors`; `Unavailable` when `retry_for` is up.
    """

    def __init__(
        self,
        url: str,
        token: str,
        *,
        retry_for: float = 10.0,
        transport: httpx.BaseTransport | None = None,
        random: Random | None = None,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        random = random or jitter()
        self.retries = Retries(random)
        self._servers = Servers(url, random, clock)
        self._http = httpx.Client(transport=transport, **self._servers.options(token))
        self._retry_for, self._clock, self._sleep = retry_for, clock, sleep
        self._asker = Asker(self, clock)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        self._http.close()

    def study(self, name: str | int) -> Study:
        """A study by its name or id, to look at and steer. Raises: NotFound."""
        return Study(self, self.get("studies", name)["name"])

    def studies(self) -> list[Study]:
        """All that this token sees, archived ones aside."""
        return [Study(self, found["name"]) for found in self.pages("studies")]

    def create(self, spec: Mapping[str, Any]) -> Study:
        """Create a study of a spec as `POST studies` takes it. Raises: Unprocessable, which says what is
        wrong and where."""
        return Study(self, self.post("studies", json=dict(spec))["name"])

    def ask(self, study: str, *, timeout: float | None = None) -> AskedTrial | None:
        """The next trial of a study, for a loop of one's own; the token must be one of the role worker.

        Returns: None when the study has ended, or a person drains this worker.
        Raises: NotFound; TimeoutError if there was none for `timeout` seconds (None: wait on).
        """
        return self._asker.ask(study, timeout)

    def get(self, *path: str | int, **query: str | int | float | bool | None) -> Any:
        """GET a path given as its parts, such as `get("studies", "digits-demo", "best")`."""
        return self.call(Call("GET", path, query=query))

    def post(
        self,
        *path: str | int,
        json: Any = None,
        headers: Mapping[str, str] | None = None,
        **query: str | int | float | bool | None,
    ) -> Any:
        """POST; all tries of one call carry the same Idempotency-Key."""
        return self.call(Call("POST", path, json, query, headers=headers or {}))

    def put(self, *path: str | int, json: Any = None, version: int | None = None) -> Any:
        """PUT; with a version it is refused if what is there has changed since (`Changed`)."""
        return self.call(Call("PUT", path, json, version=version))

    def delete(self, *path: str | int, **query: str | int | float | bool | None) -> Any:
        return self.call(Call("DELETE", path, query=query))

    def pages(self, *path: str | int, **query: str | int | float | bool | None) -> Iterator[Any]:
        """Every item of a list that comes in pages."""
        while True:
            page = self.get(*path, **query)
            yield from page["items"]
            if page.get("next_cursor") is None:
                return
            query["cursor"] = page["next_cursor"]

    def download(
        self,
        *path: str | int,
        to: Path,
        sha256: str | None = None,
        **query: str | int | float | bool | None,
    ) -> None:
        """Bring bytes to the file `to`, which appears only when all have come (and hash to `sha256`)."""
        call = Call("GET", path, query=query)

        def once() -> None:
            with (
                self._servers.ask() as base,
                self._http.stream("GET", base + call.path, params=given(query)) as response,
            ):
                if not response.is_success:
                    response.read()
                    raise failure(response) or Refused(f"{call.path}: {response.status_code}")
                with HashedFile(to, sha256) as file:
                    for chunk in response.iter_bytes(CHUNK_BYTES):
                        file.write(chunk)
                    file.keep()

        self._persist(once, self._retry_for)

    def run(self, flow: Flow[T], *, sleep: Callable[[float], None] | None = None) -> T:
        """Do what a flow says, to its end."""
        said: Any = None
        try:
            while True:
                step = flow.send(said)
                said = self.call(step) if isinstance(step, Call) else (sleep or self._sleep)(step.seconds)
        except StopIteration as end:
            result: T = end.value
            return result

    def call(self, call: Call, *, retry_for: float | None = None) -> Any:
        """Args:
        retry_for: seconds, instead of the client's own.
        """
        options = call.options()

        def once() -> Any:
            with self._servers.ask() as base:
                return answer(self._http.request(call.method, base + call.path, **options))

        return self._persist(once, self._retry_for if retry_for is None else retry_for)

    def _persist(self, once: Callable[[], T], retry_for: float) -> T:
        tries = Tries(self.retries, self._clock, retry_for)
        while True:
            try:
                return once()
            except TryAgain as trouble:
                if (pause := tries.pause(trouble)) is not None:
                    self._sleep(pause)
