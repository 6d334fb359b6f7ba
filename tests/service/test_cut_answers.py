"""A server that dies in the middle of its answer: another one is asked the same again, and says the same.

`test_crash_points` has the same for commands; this is for requests, of every route that changes anything.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from invariants import look, violations
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from structlog.testing import capture_logs
from tunesmith_service.app import create_app
from tunesmith_service.clock import ManualClock
from tunesmith_service.core import Service
from tunesmith_service.settings import Settings

from .conftest import Api, Lease, study
from .test_security import routes

HEAD = b'{"__metadata__":{"format":"pt"}}'
BYTES = len(HEAD).to_bytes(8, "little") + HEAD
SHA256 = hashlib.sha256(BYTES).hexdigest()


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory) -> FastAPI:
    """One for all servers here: it takes a second to make, and holds nothing but its `state.service`."""
    return create_app(_settings(tmp_path_factory.mktemp("app")))


def _settings(home: Path, url: str = "") -> Settings:
    return Settings(
        home=home, database_url=url, planner=False, reserve_bytes=0, reserve_percent=0, ballast_bytes=0
    )


@asynccontextmanager
async def served(app: FastAPI, home: Path, url: str) -> AsyncIterator[Api]:
    """A server, from its start to its end."""
    clock = ManualClock()
    app.state.service = service = Service(_settings(home, url), clock)
    await service.start()
    try:
        yield Api(service, clock, httpx.ASGITransport(app))
    finally:
        await service.stop()


class Cut:
    """Passes the head of an answer on, and dies before its body ends."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self.status = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def cut(message: Message) -> None:
            if message["type"] != "http.response.start":
                raise ConnectionResetError("cut in the middle of the answer")
            self.status = message["status"]
            await send(message)

        await self._app(scope, receive, cut)


@dataclass
class Scene:
    """What each request meets: a trial that runs, one that waits, one that was cancelled."""

    api: Api
    worker: dict[str, Any]
    lease: Lease
    name: str

    @classmethod
    async def make(cls, api: Api) -> Scene:
        lease = await api.lease()
        name = lease.grant["work"]["study"]
        await api.enqueue(name, 2)
        assert (await api.post(f"/studies/{name}/trials/2/cancel")).status_code == 200
        assert (await api.say(lease, f"blobs/{SHA256}", method="PUT")).status_code == 422
        put = await api.call(
            "PUT",
            f"/leases/{lease.trial_id}/blobs/{SHA256}",
            role="worker",
            headers=lease.headers,
            content=BYTES,
        )
        assert put.status_code == 204, put.text
        points = {"seq": 1, "points": [{"step": 1, "metrics": {"val/loss": 0.5}}]}
        assert (await api.say(lease, "reports", points)).status_code == 200
        return cls(api, await api.register(), lease, name)


@dataclass(frozen=True)
class Asked:
    """A request; `again` is the status that it gets once it was carried out, if that is another."""

    path: str
    json: Any = None
    content: bytes | None = None
    headers: dict[str, str] | None = None
    again: int | None = None


def of_lease(verb: str, body: Any = None, content: bytes | None = None) -> Callable[[Scene], Asked]:
    return lambda s: Asked(f"/leases/{s.lease.trial_id}/{verb}", body, content, s.lease.headers)


def of_study(path: str, body: Any = None, **more: Any) -> Callable[[Scene], Asked]:
    return lambda s: Asked(f"/studies/{s.name}{path}", body, **more)


def register(s: Scene) -> Asked:
    return Asked(f"/workers/{s.worker['worker_id']}", {**s.worker, "boot_id": "b" * 32, "starts": 2})


def claim(s: Scene) -> Asked:
    ids = {name: s.worker[name] for name in ("worker_id", "boot_id")}
    slot = s.worker["slots"][0]["slot_id"]
    return Asked("/claims", {**ids, "slot_id": slot, "claim_id": "c" * 32, "secret": "d" * 32})


REPORT = {"seq": 2, "points": [{"step": 2, "metrics": {"val/loss": 0.25}}]}


def finish(s: Scene) -> Asked:
    """With all that it may bring."""
    body = {"state": "complete", "stop_reason": "budget", "report": REPORT, "claim": claim(s).json}
    return of_lease("finish", body)(s)


KEY = {"Idempotency-Key": "one"}
REQUESTS: dict[str, Callable[[Scene], Asked]] = {
    "PUT /workers/{worker_id}": register,
    "POST /claims": claim,
    "POST /leases/{trial_id}/heartbeat": of_lease("heartbeat", {}),
    "POST /leases/{trial_id}/reports": of_lease("reports", REPORT),
    "POST /leases/{trial_id}/uploads": of_lease("uploads", {"sha256": SHA256, "size": len(BYTES)}),
    "PUT /leases/{trial_id}/blobs/{sha256}": of_lease(f"blobs/{SHA256}", content=BYTES),
    "POST /leases/{trial_id}/snapshots": of_lease("snapshots", {"step": 1, "sha256": SHA256}),
    "POST /leases/{trial_id}/logs": of_lease("logs", {"seq": 1, "text": "epoch 1"}),
    "POST /leases/{trial_id}/artifacts": of_lease("artifacts", {"name": "plot", "sha256": SHA256}),
    "POST /leases/{trial_id}/finish": finish,
    "POST /leases/{trial_id}/release": of_lease("release", {"cause": "preempted"}),
    "POST /studies": lambda s: Asked("/studies", study("another"), headers=KEY),
    "POST /studies/{study}/clone": of_study("/clone", {"name": "like it"}, headers=KEY),
    "POST /studies/{study}/pause": of_study("/pause"),
    "POST /studies/{study}/resume": of_study("/resume"),
    "POST /studies/{study}/stop": of_study("/stop"),
    "POST /studies/{study}/stages": of_study(
        "/stages", {"kind": "random", "name": "more", "epochs": 3, "trials": 2}, again=422
    ),
    "POST /studies/{study}/stages/{name:path}/skip": of_study("/stages/coarse/skip"),
    "POST /studies/{study}/trials": of_study("/trials", {"params": [{"lr": 0.05}]}, headers=KEY),
    "POST /studies/{study}/trials/{number}/cancel": of_study("/trials/0/cancel"),
    "POST /studies/{study}/trials/{number}/retry": of_study("/trials/2/retry", headers=KEY),
    "POST /studies/{study}/trials/{number}/prune": of_study("/trials/0/prune"),
    "POST /studies/{study}/rerun": of_study("/rerun", {"trials": [2]}, headers=KEY),
    "POST /studies/{study}/tags": of_study("/tags", {"trials": [0], "add": ["good"]}),
    "PUT /studies/{study}/note": of_study("/note", {"text": "seen"}, headers={"If-Match": '"0"'}, again=412),
    "POST /workers/{worker_id}/drain": lambda s: Asked(f"/workers/{s.worker['worker_id']}/drain"),
    "POST /workers/{worker_id}/undrain": lambda s: Asked(f"/workers/{s.worker['worker_id']}/undrain"),
    "POST /notify/targets": lambda s: Asked(
        "/notify/targets", {"name": "me", "kind": "slack", "to": "http://127.0.0.1:9/x"}, again=409
    ),
    "POST /tokens": lambda s: Asked("/tokens", {"name": "ann", "role": "viewer"}, headers=KEY, again=409),
}
OF_WORKERS = {r for r in REQUESTS if "{trial_id}" in r} | {"PUT /workers/{worker_id}", "POST /claims"}
ELSEWHERE = {
    # commands whose repetition test_crash_points has; each needs a scene of its own
    "POST /studies/{study}/stages/{name:path}/override", "POST /studies/{study}/archive",
    "POST /studies/{study}/unarchive", "DELETE /studies/{study}", "POST /studies/{study}/import",
    # what ends or opens a person's way in: said again, it makes another code, or finds nothing left
    "DELETE /tokens/{key_id}", "POST /login-codes", "DELETE /sessions", "DELETE /sessions/{key}",
    # one's target: said again, it is not there; and another test is sent
    "DELETE /notify/targets/{name}", "POST /notify/targets/{name}/test",
}  # fmt: skip


async def send(api: Api, route: str, asked: Asked, token: str) -> httpx.Response:
    more = {} if asked.json is None else {"json": asked.json}
    if asked.content is not None:
        more = {"content": asked.content}
    return await api.call(route.partition(" ")[0], asked.path, token=token, headers=asked.headers, **more)


@pytest.mark.parametrize("route", REQUESTS)
def test_a_request_whose_answer_was_cut_off_is_repeated_without_harm(
    app: FastAPI, url: str, tmp_path: Path, route: str
) -> None:
    async def main() -> None:
        async with served(app, tmp_path, url) as api:
            scene = await Scene.make(api)
            asked = REQUESTS[route](scene)
            token = await api.token("worker" if route in OF_WORKERS else "operator")
            transport = api._transport
            assert isinstance(transport, httpx.ASGITransport)
            transport.app = cut = Cut(transport.app)
            with capture_logs(), pytest.raises(ConnectionResetError):  # writing out tracebacks takes seconds
                await send(api, route, asked, token)
            assert 200 <= cut.status < 300, cut.status
        async with served(app, tmp_path, url) as api:
            again = await send(api, route, asked, token)
            assert again.status_code == (asked.again or cut.status), again.text
            seen = look(api.service.engine, judge_decisions=False)
            assert violations(seen) == []
            assert len({r.seq for r in seen.rows["reports"]}) == len(seen.rows["reports"])
            if route in ("POST /studies/{study}/trials", "POST /studies/{study}/trials/{number}/retry"):
                assert len(seen.rows["trials"]) == 4, "it was queued twice"

    asyncio.run(main())


def test_every_route_that_changes_anything_is_cut(app: FastAPI) -> None:
    changing = {r.replace(" /api/v1", " ") for r in routes(app) if " /api/" in r and not r.startswith("GET ")}
    assert changing == set(REQUESTS) | ELSEWHERE
