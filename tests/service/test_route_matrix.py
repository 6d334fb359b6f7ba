"""Every route, the dashboard's too, against every way to come: no credential, an old one, the wrong kind,
each role, another project, another site, another method. What is expected stands beside each route."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx
import pytest
from fastapi.routing import iter_route_contexts
from sqlalchemy import insert
from tunesmith_service import db, sessions, store, tables
from tunesmith_service.clock import SECOND
from tunesmith_service.security import CSRF_HEADER, csrf_of, masked
from tunesmith_service.tokens import Token

from .conftest import Api, study
from .test_security import MATRIX, OP, OPEN, PEOPLE, ROLES, TO_PROGRAMS, VALUES, A, R, app, path_of, routes

WRITERS = {R, A, OP}
ADMINS = {A, OP}
STUDY = "/ui/studies/{study_id}"
TRIAL = f"{STUDY}/trials/{{number}}"

PAGES = {
    "GET /ui/studies": PEOPLE,
    "GET /ui/studies/new": WRITERS,
    "POST /ui/studies/new": WRITERS,
    "POST /ui/studies/new/differences": WRITERS,
    "GET /ui/compare": PEOPLE,
    "GET /ui/compare/views/{view}": PEOPLE,
    "GET /ui/docs": PEOPLE,
    "GET /ui/workers": PEOPLE,
    "GET /ui/workers/parts/fleet": PEOPLE,
    "GET /ui/workers/views/timeline": PEOPLE,
    "POST /ui/workers/token": ADMINS,
    "POST /ui/workers/{worker_id}/{verb}": ADMINS,
    "GET /ui/settings": PEOPLE,
    "GET /ui/settings/audit": ADMINS,
    "POST /ui/settings/tokens": ADMINS,
    "POST /ui/settings/tokens/{key_id}/revoke": ADMINS,
    "POST /ui/settings/sessions/{key}/end": PEOPLE,
    "POST /ui/settings/sessions/end": PEOPLE,
    "POST /ui/logout": PEOPLE,
    "GET /ui/{rest:path}": PEOPLE,
    f"GET {STUDY}": PEOPLE,
    f"GET {STUDY}/parts/menu": PEOPLE,
    f"GET {STUDY}/parts/{{part}}": PEOPLE,
    f"GET {STUDY}/parts/events": PEOPLE,
    f"GET {STUDY}/parts/explored": PEOPLE,
    f"GET {STUDY}/parts/failures": PEOPLE,
    f"GET {STUDY}/views/{{view}}": PEOPLE,
    f"GET {STUDY}/stream": PEOPLE,
    f"GET {STUDY}/report": PEOPLE,
    f"GET {STUDY}/config": PEOPLE,
    f"GET {STUDY}/config/export": PEOPLE,
    f"GET {STUDY}/explore": PEOPLE,
    f"GET {STUDY}/explore/export": PEOPLE,
    f"GET {STUDY}/events": PEOPLE,
    f"GET {STUDY}/failures": PEOPLE,
    f"GET {STUDY}/pruning": PEOPLE,
    f"GET {STUDY}/lineage": PEOPLE,
    f"GET {STUDY}/notes": PEOPLE,
    f"POST {STUDY}/notes": WRITERS,
    f"POST {STUDY}/{{verb}}": WRITERS,
    f"POST {STUDY}/rerun": WRITERS,
    f"POST {STUDY}/put/{{where}}": WRITERS,
    f"POST {STUDY}/delete": ADMINS,
    f"POST {STUDY}/picked/again": WRITERS,
    f"POST {STUDY}/picked/tag": WRITERS,
    f"GET {STUDY}/stages/new": WRITERS,
    f"POST {STUDY}/stages/new": WRITERS,
    f"POST {STUDY}/stages/new/preview": WRITERS,
    f"POST {STUDY}/stages/{{name:path}}/override": WRITERS,
    f"GET {TRIAL}": PEOPLE,
    f"GET {TRIAL}/parts/{{part}}": PEOPLE,
    f"GET {TRIAL}/log": PEOPLE,
    f"GET {TRIAL}/views/{{view}}": PEOPLE,
    f"GET {TRIAL}/artifacts/{{name:path}}": PEOPLE,
    f"GET {TRIAL}/snapshots/{{step}}": PEOPLE,
    f"GET {TRIAL}/variant": WRITERS,
    f"POST {TRIAL}/variant": WRITERS,
    f"POST {TRIAL}/variant/differences": WRITERS,
    f"POST {TRIAL}/retry": WRITERS,
    f"POST {TRIAL}/prune": WRITERS,
}
"""Of the dashboard: which roles' sessions open it."""

OPEN_PAGES = {"GET /ui/", "GET /ui/session"}
ORIGIN = {"Origin": "http://127.0.0.1"}
METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "CONNECT", "PROPFIND")


async def session_of(api: Api, token: str) -> str:
    """The secret of a new session of this token, whatever its role."""
    row = await api.service.read(store.token_by_key, token.split("_")[1])
    return await sessions.redeem(api.service, await sessions.new_code(api.service, row.id))


async def look(api: Api, method: str, path: str, secret: str, **more: Any) -> httpx.Response:
    """As a page of ours asks, whose browser has this session."""
    headers = {
        "Cookie": f"{api.service.gate.cookie}={secret}",
        CSRF_HEADER: masked(csrf_of(secret)),
        **ORIGIN,
    }
    return await api.call(method, path, base="", token="", headers=headers, **more)


def is_shut(answer: httpx.Response, method: str) -> bool:
    """Whether it leads to the login page, or says that one must log in."""
    if method == "GET":
        return answer.status_code == 303 and answer.headers["location"].startswith("/ui/login")
    return answer.status_code == 401


async def another_project(api: Api) -> int:
    with db.writing(api.service.engine).begin() as conn:
        made = insert(tables.projects).values(name="other").returning(tables.projects.c.id)
        return int(conn.execute(made).scalar_one())


def test_the_matrices_name_every_route_there_is(tmp_path):
    api = {r.replace(" ", " /api/v1", 1) for r in MATRIX}
    assert routes(app(tmp_path)) == api | set(PAGES) | OPEN | OPEN_PAGES | TO_PROGRAMS


def test_open_routes_ask_for_nothing(play):
    async def scene(api: Api) -> None:
        for route in OPEN | OPEN_PAGES:
            method, path = path_of(route)
            answer = await api.call(method, path, base="", token="", headers=ORIGIN)
            assert answer.status_code not in (401, 500), (route, answer.text)
            assert answer.status_code != 403 or route == "POST /ui/login", route  # no code, no session

    play(scene)


@pytest.mark.parametrize("role", ROLES)
def test_a_page_opens_for_the_sessions_that_the_matrix_says(play, role):
    async def scene(api: Api) -> None:
        wrong = []
        for route, allowed in PAGES.items():
            method, path = path_of(route)
            secret = await session_of(api, await api.token(role))  # some routes end it
            answer = await look(api, method, path, secret)
            refused = answer.status_code == 403
            if refused == (role in allowed) or answer.status_code >= 500 or is_shut(answer, method):
                wrong.append((route, answer.status_code))
        assert not wrong

    play(scene)


def test_no_page_opens_without_a_good_session(play):
    async def scene(api: Api) -> None:
        async def ended(api: Api) -> str:
            secret = await session_of(api, await api.token("operator"))
            await sessions.end(api.service, secret)
            return secret

        revoked = await session_of(api, await api.token("admin"))
        key = (await api.token("admin")).split("_")[1]
        assert (await api.call("DELETE", f"/tokens/{key}")).status_code == 204
        dying = await api.token("viewer", expires_us=api.clock.now_us() + 5 * SECOND)
        expired = await session_of(api, dying)
        idle = await session_of(api, await api.token("operator"))
        api.clock.advance(601 * SECOND)
        operator = await api.token("operator")
        secrets = {"none": "", "unknown": "ab" * 32, "ended": await ended(api), "revoked": revoked,
                   "expired": expired, "idle": idle, "a token": operator}  # fmt: skip
        wrong = []
        for route in PAGES:
            method, path = path_of(route)
            for name, secret in secrets.items():
                if not is_shut(await look(api, method, path, secret), method):
                    wrong.append((route, name))
            bearer = await api.call(method, path, base="", token=operator, headers=ORIGIN)
            if not is_shut(bearer, method):
                wrong.append((route, "bearer"))
        assert not wrong

    play(scene, session_idle_seconds=600)


@pytest.mark.parametrize("role", ROLES)
def test_a_session_opens_no_route_of_the_api(play, role):
    async def scene(api: Api) -> None:
        secret = await session_of(api, await api.token(role))
        for route in MATRIX:
            method, path = path_of(route)
            for headers in ({}, {"Authorization": f"Bearer {secret}"}):
                cookie = {"Cookie": f"{api.service.gate.cookie}={secret}", **headers}
                answer = await api.call(method, path, token="", headers=cookie)
                assert answer.status_code == 401, route

    play(scene)


def test_a_page_about_what_is_another_projects_does_not_exist(play):
    async def scene(api: Api) -> None:
        lease = await api.lease()
        name = (await api.get("/studies")).json()["items"][0]["name"]
        worker = (await api.get("/workers")).json()["items"][0]["id"]
        theirs = await api.token("admin")
        key = (await api.get("/sessions", token=theirs)).json()["items"]
        assert key == []
        await session_of(api, theirs)
        key = (await api.get("/sessions", token=theirs)).json()["items"][0]["key"]
        filled = VALUES | {"worker_id": worker, "key": key, "key_id": theirs.split("_")[1], "verb": "drain"}
        other = await another_project(api)
        wrong = []
        for route in [r for r in PAGES if "{" in r and "{rest" not in r]:
            method, path = path_of(route, filled)
            secret = await session_of(api, await api.token("admin", other))
            answer = await look(api, method, path, secret, data={"name": name, "reason": "x", "text": "x"})
            if answer.status_code != 404 and "views/" not in path:
                wrong.append((route, answer.status_code))
            assert name not in answer.text, route
        for ref in ("trials=1:0", "studies=1", "stages=1:coarse"):
            secret = await session_of(api, await api.token("admin", other))
            assert name not in (await look(api, "GET", f"/ui/compare?{ref}", secret)).text
        assert not wrong
        assert lease.trial_id == 1

    play(scene)


def test_nor_does_a_worker_of_another_project_reach_it_with_the_leases_own_secret(play):
    async def scene(api: Api) -> None:
        lease = await api.lease()
        worker = (await api.get("/workers")).json()["items"][0]["id"]
        other = await another_project(api)
        stolen = await api.token("worker", other)
        for route in [r for r in MATRIX if "/leases/" in r]:
            method, path = path_of(route)
            bodies = {
                "reports": {"seq": 1, "points": []},
                "finish": {"state": "complete", "stop_reason": "budget"},
                "release": {"cause": "x"},
                "uploads": {"sha256": "0" * 64, "size": 1},
                "snapshots": {"step": 1, "sha256": "0" * 64},
                "logs": {"seq": 1, "text": "x"},
                "artifacts": {"name": "x", "sha256": "0" * 64},
            }
            body = bodies.get(path.rpartition("/")[2])
            answer = await api.call(method, path, token=stolen, headers=lease.headers, json=body)
            assert answer.status_code == 404, (route, answer.text)
        admin = await api.token("admin", other)
        theirs = (await api.token("viewer")).split("_")[1]
        for method, path in (
            ("POST", f"/workers/{worker}/drain"), ("POST", f"/workers/{worker}/undrain"),
            ("DELETE", f"/tokens/{theirs}"), ("GET", "/compare?trials=1:0"), ("GET", "/compare?studies=1"),
            ("GET", "/compare/views/curves?trials=1:0"),
        ):  # fmt: skip
            answer = await api.call(method, path, token=admin)
            assert answer.status_code == 404, (path, answer.text)
        for path in ("/workers", "/studies"):
            assert (await api.get(path, token=admin)).json()["items"] == []
        assert worker not in (await api.get("/audit", token=admin)).text
        registered = await api.register()
        again = await api.call("PUT", f"/workers/{registered['worker_id']}", token=stolen, json=registered)
        assert again.status_code == 409, again.text

    play(scene)


FOREIGN_HOSTS = ({"Host": "evil.example"}, {"Host": "127.0.0.1.evil.example:8787"})
FOREIGN_PAGES = (
    {"Origin": "http://evil.example"},
    {"Origin": "null"},
    {"Origin": ""},
    {"Origin": "https://127.0.0.1"},
    {"Sec-Fetch-Site": "cross-site"},
    {"Sec-Fetch-Site": "same-site"},
)


@pytest.mark.parametrize("method", METHODS)
def test_a_foreign_host_or_page_gets_nowhere_on_any_route_by_any_method(play, method):
    async def scene(api: Api) -> None:
        token = await api.token("operator")
        secret = await session_of(api, token)
        sent = {
            "Cookie": f"{api.service.gate.cookie}={secret}",
            CSRF_HEADER: masked(csrf_of(secret)),
            **ORIGIN,
        }
        paths = {path_of(r.replace(" ", " /api/v1", 1))[1] for r in MATRIX}
        paths |= {path_of(r)[1] for r in (*PAGES, *OPEN, *OPEN_PAGES)}
        foreign = FOREIGN_HOSTS if method in ("GET", "HEAD", "OPTIONS") else (*FOREIGN_HOSTS, *FOREIGN_PAGES)
        for path in sorted(paths):
            for headers in foreign:
                answer = await api.call(method, path, base="", token=token, headers=sent | headers)
                assert answer.status_code == 403, (path, headers)

    play(scene)


def test_a_method_that_a_path_does_not_declare_is_refused(play):
    async def scene(api: Api) -> None:
        token = await api.token("operator")
        declared: dict[str, set[str]] = {}
        for context in iter_route_contexts(app(api.service.settings.home).router.routes):
            declared.setdefault(context.path, set()).update(context.methods)
        for path, methods in declared.items():
            there = path_of(f"X {path}")[1]
            for method in set(METHODS) - methods:
                answer = await api.call(method, there, base="", token=token, headers=ORIGIN)
                allowed = {r.split()[0] for r in PAGES if path_of(r)[1] == there}
                if method in allowed or (path.startswith("/ui/") and method == "GET"):
                    continue  # another route has it: a page of the dashboard by any name
                assert answer.status_code in (401, 404, 405, 422), (method, path, answer.status_code)
                assert answer.status_code != 401 or path.startswith(("/ui/", "/api/")), (method, path)

    play(scene)


@pytest.mark.parametrize("path", ["/", "/ui/studies/1/stream", "/api/v1/studies", "/healthz", "/nowhere"])
@pytest.mark.parametrize("host", [b"127.0.0.1", b"evil.example"])
def test_no_websocket_is_ever_accepted(tmp_path, path: str, host: bytes):
    said: list[dict[str, Any]] = []
    asked = [{"type": "websocket.connect"}, {"type": "websocket.disconnect", "code": 1000}]

    async def receive() -> dict[str, Any]:
        return asked.pop(0)

    async def send(message: Any) -> None:
        said.append(message)

    scope = {
        "type": "websocket", "scheme": "ws", "path": path, "raw_path": path.encode(), "query_string": b"",
        "headers": [(b"host", host)], "client": ("127.0.0.1", 1), "server": ("127.0.0.1", 80),
        "subprotocols": [], "root_path": "", "asgi": {"version": "3.0"},
    }  # fmt: skip
    asyncio.run(app(tmp_path)(scope, receive, send))
    assert [m["type"] for m in said] == ["websocket.close"]


def test_a_token_of_each_role_is_good_for_something(play):
    """The matrix could be satisfied by a server that refuses everybody."""

    async def scene(api: Api) -> None:
        assert (await api.post("/studies", json=study())).status_code == 201
        for role in PEOPLE:
            assert (await api.get("/studies/study", role=role)).status_code == 200
        assert (await api.claim()).status_code == 200
        assert (await api.get("/studies", token=Token.mint().reveal())).status_code == 401

    play(scene)
