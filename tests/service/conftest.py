"""A real server process, and the application in this process on a clock turned by hand."""

from __future__ import annotations

import asyncio
import secrets
import sys
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from processes import START_SECONDS, Process, free_port, until
from swift_server import Swift
from tunesmith_service.app import create_app
from tunesmith_service.clock import SECOND, ManualClock
from tunesmith_service.commands import CreateToken
from tunesmith_service.core import Service
from tunesmith_service.settings import Settings
from tunesmith_service.tokens import Token
from tunesmith_service.wire import LEASE_HEADER

TASK = "light"
DIGEST = "d1" * 32


def study(name: str = "study", **changed: Any) -> dict[str, Any]:
    """A study as a person writes it: four cells of three epochs."""
    return {
        "name": name,
        "task": TASK,
        "space": {"lr": {"low": 1e-3, "high": 0.1, "log": True}},
        "stages": [{"kind": "coarse_grid", "name": "coarse", "epochs": 3, "axes": {"lr": 4}}],
        **changed,
    }


class Served:
    """`tunesmith serve` in a process of its own, killed at the end."""

    program: tuple[str, ...] = ("-m", "tunesmith_service")

    def __init__(self, home: Path, *flags: str, environ: dict[str, str] | None = None) -> None:
        self.home, self.port = home, free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self._flags, self._environ = flags, environ
        self.start()
        bearer = {"Authorization": f"Bearer {self.token('operator')}"}
        self.people = httpx.Client(base_url=f"{self.url}/api/v1", headers=bearer, timeout=60)

    def close(self) -> None:
        self.people.close()
        self.process.kill()

    def __enter__(self) -> Served:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def start(self) -> None:
        command = [sys.executable, *self.program, "serve", "--home", str(self.home)]
        command += ["--port", str(self.port), "--reserve-bytes", "0", *self._flags]
        self.process = Process(command, directory=self.home, environ=self._environ)
        until(self._answers, START_SECONDS, saw=lambda: self.process.said)

    def _answers(self) -> bool:
        assert self.process.process.poll() is None, self.process.said
        try:
            return httpx.get(f"{self.url}/readyz", timeout=60).status_code == 200
        except httpx.TransportError:
            return False

    def token(self, role: str) -> str:
        """The token that the first start made for an operator or a worker."""
        return (self.home / f"{role}.token").read_text().strip()


@pytest.fixture(scope="session")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A server on SQLite that all tests share: they name their studies differently."""
    with Served(tmp_path_factory.mktemp("served")) as server:
        yield server


@pytest.fixture
def serve(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Served]]:
    """Starts servers of a test's own: `serve("--flag", environ={…})`."""
    with ExitStack() as all_:

        def start(*flags: str, environ: dict[str, str] | None = None) -> Served:
            return all_.enter_context(Served(tmp_path_factory.mktemp("own"), *flags, environ=environ))

        yield start


@dataclass
class Lease:
    """What a granted worker knows."""

    trial_id: int
    headers: dict[str, str]
    grant: dict[str, Any]


class Api:
    """The application in this process. `clock` stands still until it is turned."""

    def __init__(self, service: Service, clock: ManualClock, transport: httpx.AsyncBaseTransport) -> None:
        self.service, self.clock = service, clock
        self._transport = transport
        self._tokens: dict[tuple[str, int | None], str] = {}

    async def token(self, role: str, project: int | None = 1, expires_us: int | None = None) -> str:
        """A token of this role; an operator's belongs to no project."""
        project = None if role == "operator" else project
        known = self._tokens.get((role, project))
        if known is not None and expires_us is None:
            return known
        token = Token.mint()
        made = CreateToken(project, f"a {role}", role, token.key_id, token.secret_hash, expires_us, "test")
        await self.service.writer.submit(made)
        if expires_us is None:
            self._tokens[role, project] = token.reveal()
        return token.reveal()

    async def call(
        self, method: str, path: str, *, role: str = "operator", project: int | None = 1,
        token: str | None = None, headers: dict[str, str] | None = None, base: str = "/api/v1", **more: Any,
    ) -> httpx.Response:  # fmt: skip
        if token is None:
            token = await self.token(role, project)
        bearer = {"Authorization": f"Bearer {token}"} if token else {}
        async with httpx.AsyncClient(transport=self._transport, base_url="http://127.0.0.1") as client:
            return await client.request(
                method, f"{base}{path}", headers={**bearer, **(headers or {})}, **more
            )

    async def get(self, path: str, **more: Any) -> httpx.Response:
        return await self.call("GET", path, **more)

    async def post(self, path: str, **more: Any) -> httpx.Response:
        return await self.call("POST", path, **more)

    # --- a worker, by hand ------------------------------------------------------------------------

    async def enqueue(self, study: str, n: int = 1) -> list[int]:
        params = [{"lr": 0.001 * (i + 1)} for i in range(n)]
        answer = await self.post(f"/studies/{study}/trials", json={"params": params})
        assert answer.status_code == 201, answer.text
        return answer.json()["numbers"]

    async def register(self, slots: int = 1) -> dict[str, Any]:
        worker = {
            "worker_id": secrets.token_hex(16), "boot_id": secrets.token_hex(16), "starts": 1, "name": "w",
            "version": "0", "tasks": {TASK: DIGEST},
            "slots": [{"slot_id": secrets.token_hex(16), "devices": ["cpu"]} for _ in range(slots)],
        }  # fmt: skip
        answer = await self.call("PUT", f"/workers/{worker['worker_id']}", role="worker", json=worker)
        assert answer.status_code == 200, answer.text
        return worker

    async def claim(self, worker: dict[str, Any] | None = None, slot: int = 0, **more: Any) -> httpx.Response:
        worker = worker or await self.register()
        body = {
            "claim_id": secrets.token_hex(16), "worker_id": worker["worker_id"], "boot_id": worker["boot_id"],
            "slot_id": worker["slots"][slot]["slot_id"], "secret": "5ec1e7" + "0" * 26, **more,
        }  # fmt: skip
        return await self.post("/claims", role="worker", json=body)

    async def lease(self) -> Lease:
        """A trial of a new study, granted to a new worker."""
        name = f"study-{secrets.token_hex(4)}"
        assert (await self.post("/studies", json=study(name))).status_code == 201
        await self.enqueue(name)
        return self.leased((await self.claim()).json()["grant"])

    def leased(self, grant: dict[str, Any]) -> Lease:
        header = f"{grant['incarnation']}.{grant['attempt']}.5ec1e7{'0' * 26}"
        return Lease(grant["trial_id"], {LEASE_HEADER: header}, grant)

    async def say(self, lease: Lease, verb: str, body: Any = None, method: str = "POST") -> httpx.Response:
        """A write of the lease's holder."""
        more = {} if body is None else {"json": body}
        path = f"/leases/{lease.trial_id}/{verb}"
        return await self.call(method, path, role="worker", headers=lease.headers, **more)


Play = Callable[[Api], Coroutine[Any, Any, None]]


@asynccontextmanager
async def running(home: Path, url: str = "", **changed: Any) -> AsyncIterator[Api]:
    clock = ManualClock()
    settings = Settings(
        **{
            "home": home,
            "database_url": url,
            "planner": False,
            "reserve_bytes": 0,
            "reserve_percent": 0,
            "ballast_bytes": 0,
            "sweep_seconds": 10,
            **changed,
        }
    )
    app = create_app(settings, clock)
    async with app.router.lifespan_context(app):
        yield Api(app.state.service, clock, httpx.ASGITransport(app))


@pytest.fixture
def play(tmp_path: Path) -> Callable[..., None]:
    """Run a scene with an application on SQLite in a fresh home: `play(scene, ttl_seconds=5)`."""

    def run(scene: Play, **changed: Any) -> None:
        async def main() -> None:
            async with asyncio.timeout(300), running(tmp_path, **changed) as api:
                await scene(api)

        asyncio.run(main())

    return run


@pytest.fixture
def play_on_each(url: str, tmp_path: Path) -> Callable[..., None]:
    """The same on SQLite and on PostgreSQL."""

    def run(scene: Play, **changed: Any) -> None:
        async def main() -> None:
            async with asyncio.timeout(300), running(tmp_path, url, **changed) as api:
                await scene(api)

        asyncio.run(main())

    return run


@pytest.fixture
def environ(swift: Swift, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """Of a service with a prefix of its own."""
    told = swift.service(tmp_path.name)
    for name, value in told.items():
        monkeypatch.setenv(name, value)
    return told


@pytest.fixture
def play_with_bucket(play: Callable[..., None], environ: dict[str, str]) -> Callable[..., None]:
    told = {"blob_store": environ["TUNESMITH_BLOB_STORE"], "s3_endpoint": environ["TUNESMITH_S3_ENDPOINT"]}
    return lambda scene, **more: play(scene, **told, **more)


__all__ = ["SECOND", "Api", "Lease", "Served", "running", "study"]


@pytest.fixture(scope="session")
def varied(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A `varied.Varied`, which tests share; they make studies of their own beside its."""
    from .varied import Varied  # needs a dashboard, which most tests here do not

    made = Varied(tmp_path_factory.mktemp("varied"))
    yield made
    made.process.kill()
