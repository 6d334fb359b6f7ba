"""What a request is worth, and that a full server keeps leases: through the application as it is served."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import Awaitable, Iterator
from contextlib import AbstractContextManager, ExitStack
from typing import Any

import httpx
import pytest
from fastapi.routing import iter_route_contexts
from light import LightWorker
from processes import filled, until
from tunesmith_service.app import create_app
from tunesmith_service.client import Client
from tunesmith_service.places import Place, Priority
from tunesmith_service.quick_refusals import Head, read_head
from tunesmith_service.security import policy_of
from tunesmith_service.settings import Settings
from tunesmith_service.shedding import Priorities
from tunesmith_service.tokens import Token

from .conftest import Api, Served, running, study
from .test_security import path_of, routes

DASHBOARD, CREATE, CLAIM, REPORT, KEEP = Priority
SMALL = {"in_flight": 4, "waiting": 0}  # three places, and one that is reserved


async def fill(api: Api, priority: Priority, n: int) -> list[Place]:
    return [await api.service.places.enter(priority) for _ in range(n)]


# --- what a request is worth ----------------------------------------------------------------------


def test_every_route_has_the_priority_that_it_declares(tmp_path):
    app = create_app(Settings(home=tmp_path))
    priorities = Priorities(app.routes)
    wrong = []
    for context in iter_route_contexts(app.router.routes):
        for method in context.methods:
            _, path = path_of(f"{method} {context.path}")
            declared = policy_of(context.endpoint).priority(method)
            if priorities.of(method, path) is not declared:
                wrong.append((method, path, declared))
    assert not wrong


def test_what_keeps_a_lease_is_what_says_so_and_nothing_else(tmp_path):
    app = create_app(Settings(home=tmp_path))
    priorities = Priorities(app.routes)
    found = {r for r in routes(app) if priorities.of(*path_of(r)) is KEEP}
    lease = "POST /api/v1/leases/{trial_id}/"
    operators = {"GET /metrics"}  # who look at a flooded server
    assert found == {lease + "heartbeat", lease + "finish", lease + "release"} | operators


@pytest.mark.parametrize(
    ("request_line", "priority"),
    [
        ("GET /", DASHBOARD),
        ("GET /ui/studies", DASHBOARD),
        ("GET /api/v1/studies", DASHBOARD),
        ("POST /ui/login", DASHBOARD),
        ("POST /csp-reports", DASHBOARD),
        ("POST /api/v1/studies", CREATE),
        ("DELETE /api/v1/tokens/0123", CREATE),
        ("POST /api/v1/claims", CLAIM),
        ("PUT /api/v1/workers/" + "0" * 32, CLAIM),
        ("POST /api/v1/leases/7/reports", REPORT),
        ("PUT /api/v1/leases/7/blobs/" + "0" * 64, REPORT),
        ("POST /api/v1/leases/7/heartbeat", KEEP),
        ("POST /api/v1/leases/7/x/heartbeat", CREATE),
        ("POST /nowhere", CREATE),
        ("GET /healthz", None),
        ("GET /readyz", None),
    ],
)
def test_priorities(tmp_path, request_line, priority):
    priorities = Priorities(create_app(Settings(home=tmp_path)).routes)
    assert priorities.of(*request_line.split()) is priority


# --- a full server --------------------------------------------------------------------------------


def test_a_full_server_sends_away_with_when_to_come_again_and_keeps_leases(play):
    async def scene(api: Api) -> None:
        lease = await api.lease()
        await api.token("researcher")
        await api.service.know_tokens()
        places = await fill(api, DASHBOARD, 3)
        for answer, seconds in (
            (await api.get("/studies"), "5"),
            (await api.post("/studies", json=study("other")), "3"),
            (await api.call("PUT", "/workers/" + "0" * 32, role="worker"), "2"),
            (await api.say(lease, "reports", {"seq": 1, "points": [{"step": 1, "metrics": {"x": 1}}]}), "1"),
        ):
            assert answer.status_code == 429
            assert answer.headers["retry-after"] == seconds
            assert answer.json()["type"] == "urn:tunesmith:too_many"
        assert (await api.say(lease, "heartbeat", {})).status_code == 200
        assert (await api.get("/healthz", base="", token="")).status_code == 200
        assert (await api.get("/readyz", base="", token="")).status_code == 200
        ended = await api.say(lease, "finish", {"state": "pruned", "stop_reason": "diverged"})
        assert ended.status_code == 200
        assert dict(api.service.places.shed) == {DASHBOARD: 1, CREATE: 1, CLAIM: 1, REPORT: 1}
        places[0].leave()
        assert (await api.get("/studies")).status_code == 200

    play(scene, **SMALL)


def test_the_reserve_is_for_those_whose_token_is_known(play):
    async def scene(api: Api) -> None:
        lease = await api.lease()
        path = f"/leases/{lease.trial_id}/heartbeat"
        good = await api.token("worker")
        await api.service.know_tokens()
        await fill(api, DASHBOARD, 3)
        for token in ("", "nonsense", Token.mint().reveal(), good[:-1] + ("0" if good[-1] != "0" else "1")):
            refused = await api.post(path, token=token, headers=lease.headers, json={})
            assert refused.status_code == 429, token
        assert (await api.post(path, token=good, headers=lease.headers, json={})).status_code == 200

    play(scene, **SMALL)


def test_tokens_are_known_from_the_start_without_having_been_used(tmp_path):
    """After a restart in the middle of a flood, the first beat of a worker finds the reserve open."""

    async def scene() -> None:
        async with running(tmp_path) as api:
            lease = await api.lease()
            token = await api.token("worker")
        async with running(tmp_path, **SMALL) as api:
            await fill(api, DASHBOARD, 3)
            path = f"/leases/{lease.trial_id}/heartbeat"
            assert (await api.post(path, token=token, headers=lease.headers, json={})).status_code == 200

    asyncio.run(scene())


def test_a_parked_claim_holds_no_place(play):
    async def scene(api: Api) -> None:
        assert (await api.post("/studies", json=study("s"))).status_code == 201
        worker = await api.register(slots=9)
        await api.service.know_tokens()
        claims = [asyncio.create_task(api.claim(worker, slot, wait_seconds=20)) for slot in range(9)]
        while len(api.service.room) < 9 or api.service.places.in_flight:  # noqa: ASYNC110
            await asyncio.sleep(0)
        await api.enqueue("s", 9)
        answers = await asyncio.gather(*claims)
        assert all(a.json()["grant"] for a in answers)
        assert api.service.places.in_flight == 0

    play(scene, in_flight=4, waiting=16)


def test_a_stream_of_events_holds_no_place(play):
    async def scene(api: Api) -> None:
        from tunesmith_service import sessions

        assert (await api.post("/studies", json=study("s"))).status_code == 201
        code = (await api.post("/login-codes")).json()["code"]
        cookie = f"{api.service.gate.cookie}={await sessions.redeem(api.service, code)}"
        listening = asyncio.create_task(
            api.get("/ui/studies/1/stream", base="", token="", headers={"Cookie": cookie})
        )
        while not api.service.listeners._events:  # noqa: ASYNC110
            await asyncio.sleep(0)
        assert api.service.places.in_flight == 0
        api.service.listeners.close()
        assert (await listening).status_code == 200

    play(scene)


def test_an_upload_holds_no_place_and_so_many_run_at_once(play):
    async def scene(api: Api) -> None:
        lease = await api.lease()
        come, go = asyncio.Event(), asyncio.Event()

        async def slowly():
            come.set()
            await go.wait()
            yield b""

        path = f"/leases/{lease.trial_id}/blobs/" + "0" * 64
        put = {"role": "worker", "headers": lease.headers}
        first = asyncio.create_task(api.call("PUT", path, content=slowly(), **put))
        await come.wait()
        assert (api.service.uploads.running, api.service.places.in_flight) == (1, 0)
        refused = await api.call("PUT", path, content=b"x", **put)
        assert (refused.status_code, refused.headers["retry-after"]) == (429, "5")
        go.set()
        assert (await first).status_code == 422  # it hashes to something else
        assert api.service.uploads.running == 0

    play(scene, uploads=1)


# --- refused on the connection --------------------------------------------------------------------

WHOLE = (
    b"POST /api/v1/studies?x=1 HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer t\r\nContent-Length: 4\r\n\r\n"
)


def test_a_head_is_read_as_far_as_a_refusal_needs():
    assert read_head(WHOLE + b"body") == Head("POST", "/api/v1/studies", "Bearer t", len(WHOLE), 4)


@pytest.mark.parametrize(
    "data",
    [
        WHOLE[:-1],  # not whole yet
        WHOLE.replace(b"HTTP/1.1", b"HTTP/1.0"),
        WHOLE.replace(b"POST", b"HEAD"),
        WHOLE.replace(b"POST /", b"POST http://x/"),
        WHOLE.replace(b"Host: x", b"Transfer-Encoding: chunked"),
        WHOLE.replace(b"Host: x", b"Expect: 100-continue"),
        WHOLE.replace(b"Host: x", b"Connection: close"),
        WHOLE.replace(b"Host: x", b"Content-Length: 5"),
        WHOLE.replace(b"Content-Length: 4", b"Content-Length : 4"),
        WHOLE.replace(b"Content-Length: 4", b"Content-Length: +4"),
        WHOLE.replace(b"Content-Length: 4", b"Content-Length: 4, 4"),
        WHOLE.replace(b"Content-Length: 4", b"Content-Length: 9999999"),
        WHOLE.replace(b"Host: x\r\n", b"Host: x\n"),
        WHOLE.replace(b"Host: x\r\n", b"Host: x\n\n"),
    ],
)
def test_a_head_that_may_be_read_in_two_ways_goes_the_usual_way(data):
    assert read_head(data + b"body") is None


class Crowded(Served):
    """A server with three places for all, and one that is reserved."""

    def full(self) -> AbstractContextManager[None]:
        return filled(self.port, self.token("operator"))


@pytest.fixture(scope="module")
def crowded(tmp_path_factory) -> Iterator[Crowded]:
    flags = ["--in-flight", "4", "--waiting", "0", "--body-seconds", "60"]
    with Crowded(tmp_path_factory.mktemp("crowded"), *flags) as server:
        yield server


def test_a_refusal_on_the_connection_reads_like_any_other_and_keeps_it_open(crowded: Crowded):
    with crowded.full():
        body = json.dumps(study("refused")).encode()
        request = (
            f"POST /api/v1/studies HTTP/1.1\r\nHost: 127.0.0.1:{crowded.port}\r\n"
            f"Authorization: Bearer {crowded.token('operator')}\r\nContent-Type: application/json\r\n"
            f"Content-Length: {len(body)}\r\n\r\n"
        ).encode()
        with (
            socket.create_connection(("127.0.0.1", crowded.port)) as raw,
            raw.makefile("rb") as answers,
        ):
            for pieces, requests in (
                ((request + body,), 1),
                ((request, body), 1),
                ((request, body[:5], body[5:]), 1),
                ((request + body + request, body), 2),
            ):
                for piece in pieces:
                    raw.sendall(piece)
                for _ in range(requests):
                    assert answered(answers) == (429, "3", "urn:tunesmith:too_many")
        refused = crowded.people.get("/studies")
        assert refused.headers["tunesmith-request-id"]
        assert refused.headers["x-content-type-options"] == "nosniff"
        assert refused.headers["content-type"] == "application/problem+json"
        assert "requests.shed" in crowded.process.said
    listed = until(lambda: (got := crowded.people.get("/studies")).status_code == 200 and got)
    assert "refused" not in listed.text


def answered(answers) -> tuple[int, str, str]:
    """Status, Retry-After and type of the next answer on a connection."""
    status = int(answers.readline().split()[1])
    headers = {}
    while line := answers.readline().strip():
        name, _, value = line.partition(b": ")
        headers[name.lower().decode()] = value.decode()
    body = json.loads(answers.read(int(headers["content-length"])))
    return status, headers["retry-after"], body["type"]


def test_a_connection_goes_on_after_a_refusal(crowded: Crowded):
    with httpx.Client(base_url=f"{crowded.url}/api/v1", headers=crowded.people.headers) as client:
        with crowded.full():
            for _ in range(3):
                assert client.post("/studies", json=study("later", stages=[])).status_code == 429
            assert client.get("/studies").status_code == 429
        made = until(lambda: (m := client.post("/studies", json=study("later"))).status_code != 429 and m)
        assert made.status_code == 201
        listed = until(lambda: (got := client.get("/studies")).status_code == 200 and got)
        assert [s["name"] for s in listed.json()["items"]] == ["later"]


def test_a_light_worker_rides_out_a_server_that_sends_it_away(crowded: Crowded):
    """What it asks is refused, asked again when it may be, and in the end all is done, once."""
    told: list[int] = []

    async def main() -> tuple[str, int]:
        worker = LightWorker(crowded.url, crowded.token("worker"))
        worker.client._on_trouble = lambda trouble, pause: told.append(getattr(trouble, "answered", 0))
        await worker.register()
        lease, work = await refused_at_first(worker, worker.claim(wait_seconds=20))
        with crowded.full():
            await worker.beat(lease)  # never sent away
        await refused_at_first(worker, worker.report(lease, work, 1, 1))
        await worker.report(lease, work, 2, 2)
        await worker.finish(lease)
        await worker.client.aclose()
        return work.study, work.number

    async def refused_at_first(worker: LightWorker, call: Awaitable[Any]) -> Any:
        full = ExitStack()

        async def sleep(seconds: float) -> None:
            assert seconds >= 1  # as Retry-After says
            full.close()

        full.enter_context(crowded.full())
        worker.client._sleep = sleep
        return await call

    with Client(crowded.url, crowded.token("operator")) as people:
        people.post("studies", json=study("ridden"))
        name, number = asyncio.run(main())
        assert told.count(429) >= 2
        trial = people.get("studies", name, "trials", number)
        assert (trial["state"], len(trial["attempts"])) == ("complete", 1)
        curve = people.get("studies", name, "trials", number, "curve")
        assert [p["step"] for p in curve["points"]] == [1, 2]
