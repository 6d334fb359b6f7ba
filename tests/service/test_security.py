"""Who may do what: every route against every role, and nothing without a policy."""

from __future__ import annotations

import asyncio
import re
import stat
import time
from collections.abc import Mapping

import pytest
from fastapi import FastAPI
from fastapi.routing import iter_route_contexts
from sqlalchemy import insert
from starlette.responses import PlainTextResponse
from tunesmith_service import db, sessions, tables
from tunesmith_service.app import create_app
from tunesmith_service.clock import SECOND
from tunesmith_service.routing import PolicyMissingError, check_policies, router
from tunesmith_service.security import Role, public
from tunesmith_service.settings import Settings
from tunesmith_service.tokens import Token

from .conftest import Api, Served, study

V, R, A, OP = "viewer", "researcher", "admin", "operator"
PEOPLE = {V, R, A, OP}
WORKER = {"worker"}
ROLES = (*sorted(PEOPLE), "worker")

MATRIX = {
    "PUT /workers/{worker_id}": WORKER,
    "POST /claims": WORKER,
    "POST /leases/{trial_id}/heartbeat": WORKER,
    "POST /leases/{trial_id}/reports": WORKER,
    "POST /leases/{trial_id}/uploads": WORKER,
    "GET /leases/{trial_id}/downloads/{sha256}": WORKER,
    "PUT /leases/{trial_id}/blobs/{sha256}": WORKER,
    "POST /leases/{trial_id}/snapshots": WORKER,
    "GET /leases/{trial_id}/snapshots/{sha256}": WORKER,
    "POST /leases/{trial_id}/logs": WORKER,
    "POST /leases/{trial_id}/artifacts": WORKER,
    "POST /leases/{trial_id}/finish": WORKER,
    "POST /leases/{trial_id}/release": WORKER,
    "GET /compare": PEOPLE,
    "GET /compare/views/{view}": PEOPLE,
    "GET /studies": PEOPLE,
    "POST /studies": {R, A, OP},
    "GET /studies/{study}": PEOPLE,
    "GET /studies/{study}/best": PEOPLE,
    "GET /studies/{study}/findings": PEOPLE,
    "GET /studies/{study}/events": PEOPLE,
    "GET /studies/{study}/views/{view}": PEOPLE,
    "GET /studies/{study}/report": PEOPLE,
    "POST /studies/{study}/pause": {R, A, OP},
    "POST /studies/{study}/resume": {R, A, OP},
    "POST /studies/{study}/stop": {R, A, OP},
    "POST /studies/{study}/stages": {R, A, OP},
    "POST /studies/{study}/stages/{name:path}/skip": {R, A, OP},
    "POST /studies/{study}/stages/{name:path}/override": {R, A, OP},
    "GET /studies/{study}/trials": PEOPLE,
    "GET /studies/{study}/trials/export": PEOPLE,
    "POST /studies/{study}/trials": {R, A, OP},
    "POST /studies/{study}/import": {R, A, OP},
    "GET /studies/{study}/trials/{number}": PEOPLE,
    "GET /studies/{study}/trials/{number}/curve": PEOPLE,
    "GET /studies/{study}/trials/{number}/logs": PEOPLE,
    "GET /studies/{study}/trials/{number}/views/{view}": PEOPLE,
    "GET /studies/{study}/trials/{number}/artifacts/{name:path}": PEOPLE,
    "GET /studies/{study}/trials/{number}/snapshots/{step}": PEOPLE,
    "POST /studies/{study}/trials/{number}/cancel": {R, A, OP},
    "POST /studies/{study}/trials/{number}/retry": {R, A, OP},
    "POST /studies/{study}/trials/{number}/prune": {R, A, OP},
    "POST /studies/{study}/rerun": {R, A, OP},
    "POST /studies/{study}/clone": {R, A, OP},
    "POST /studies/{study}/archive": {R, A, OP},
    "POST /studies/{study}/unarchive": {R, A, OP},
    "GET /studies/{study}/tags": PEOPLE,
    "POST /studies/{study}/tags": {R, A, OP},
    "GET /studies/{study}/note": PEOPLE,
    "PUT /studies/{study}/note": {R, A, OP},
    "DELETE /studies/{study}": {A, OP},
    "GET /workers": PEOPLE,
    "POST /workers/{worker_id}/drain": {A, OP},
    "POST /workers/{worker_id}/undrain": {A, OP},
    "GET /tokens": {A, OP},
    "POST /tokens": {A, OP},
    "DELETE /tokens/{key_id}": {A, OP},
    "POST /login-codes": PEOPLE,
    "GET /sessions": PEOPLE,
    "DELETE /sessions": PEOPLE,
    "DELETE /sessions/{key}": PEOPLE,
    "GET /notify/targets": {OP},
    "POST /notify/targets": {OP},
    "DELETE /notify/targets/{name}": {OP},
    "POST /notify/targets/{name}/test": {OP},
    "GET /notify/deliveries": {OP},
    "GET /audit": {A, OP},
    "GET /audit/head": {OP},
    "GET /openapi.json": PEOPLE,
}
OPEN = {
    "GET /healthz",
    "GET /readyz",
    "POST /csp-reports",
    "GET /",
    "GET /ui",
    "GET /ui/login",
    "POST /ui/login",
    "GET /ui/static/{name}",
}
TO_PROGRAMS = {"GET /metrics"}  # behind a token, beside the API; see test_metrics
VALUES = {"worker_id": "0" * 32, "trial_id": "1", "sha256": "0" * 64, "study": "study", "number": "0",
          "step": "1", "name": "x", "name:path": "x", "key_id": "0" * 16, "key": "0" * 16, "study_id": "1",
          "part": "x", "verb": "x", "where": "away", "rest:path": "x", "view": "history"}  # fmt: skip


def routes(app: FastAPI) -> set[str]:
    return {f"{m} {c.path}" for c in iter_route_contexts(app.router.routes) for m in c.methods}


def path_of(route: str, values: Mapping[str, str] = VALUES) -> tuple[str, str]:
    """Its method, and a path with `values` in its places."""
    method, _, path = route.partition(" ")
    return method, re.sub(r"{([^}]+)}", lambda m: values[m[1]], path)


def app(tmp_path) -> FastAPI:
    return create_app(Settings(home=tmp_path))


def test_the_matrix_names_every_route_of_the_api_and_the_rest_is_open_or_the_dashboards(tmp_path):
    found = routes(app(tmp_path))
    api = {r.replace(" /api/v1", " ") for r in found if " /api/" in r}
    assert api == set(MATRIX)
    assert {r for r in found if " /api/" not in r and " /ui/" not in r} <= OPEN | TO_PROGRAMS


def test_each_route_answers_each_role_as_the_matrix_says(play):
    async def scene(api: Api) -> None:
        wrong = []
        for route, allowed in MATRIX.items():
            method, path = path_of(route)
            for role in ROLES:
                status = (await api.call(method, path, role=role)).status_code
                if (status == 403) == (role in allowed) or status in (401, 500):
                    wrong.append((route, role, status))
        assert not wrong

    play(scene)


def test_nothing_is_answered_without_a_good_token(play):
    async def scene(api: Api) -> None:
        expired = await api.token("operator", expires_us=api.clock.now_us())
        revoked = await api.token("admin")
        assert (await api.call("DELETE", f"/tokens/{revoked.split('_')[1]}")).status_code == 204
        unknown = Token.mint().reveal()
        good = await api.token("operator")
        tampered = good[:-1] + ("0" if good[-1] != "0" else "1")
        wrong = []
        for route in MATRIX:
            method, path = path_of(route)
            for token in ("", "nonsense", unknown, tampered, expired, revoked):
                answer = await api.call(method, path, token=token)
                if answer.status_code != 401 or answer.headers["www-authenticate"] != "Bearer":
                    wrong.append((route, token, answer.status_code))
        assert not wrong

    play(scene)


def test_what_belongs_to_another_project_does_not_exist(play):
    async def scene(api: Api) -> None:
        assert (await api.post("/studies", json=study())).status_code == 201
        await api.enqueue("study")
        with db.writing(api.service.engine).begin() as conn:
            made = insert(tables.projects).values(name="other").returning(tables.projects.c.id)
            other = conn.execute(made).scalar_one()
        bodies = {
            "POST /studies/{study}/stages": study()["stages"][0],
            "POST /studies/{study}/trials": {"params": [{"lr": 0.01}]},
            "POST /studies/{study}/import": {
                "stage": "coarse",
                "trials": [{"number": 0, "state": "failed", "params": {}}],
            },
        }
        for route in [r for r in MATRIX if "{study}" in r]:
            method, path = path_of(route)
            for study_ref in ("/studies/study", "/studies/1"):
                there = path.replace("/studies/study", study_ref)
                answer = await api.call(method, there, role="admin", project=other, json=bodies.get(route))
                assert answer.status_code == 404, (route, answer.text)
        assert (await api.get("/studies", role="admin", project=other)).json()["items"] == []
        assert (await api.get("/studies", role="admin")).json()["items"] != []

    play(scene)


def test_a_revoked_token_is_refused_within_a_second(play):
    async def scene(api: Api) -> None:
        token = await api.token("viewer")
        assert (await api.get("/studies", token=token)).status_code == 200
        await api.call("DELETE", f"/tokens/{token.split('_')[1]}")
        revoked_at = time.monotonic()
        while (await api.get("/studies", token=token)).status_code == 200:
            assert time.monotonic() < revoked_at + 1.2
            await asyncio.sleep(0.05)

    play(scene)


def test_an_admin_makes_no_operator(play):
    async def scene(api: Api) -> None:
        answer = await api.post("/tokens", role="admin", json={"name": "more", "role": "operator"})
        assert answer.status_code == 403
        assert "a token with the role admin cannot make one with the role operator" in answer.json()["detail"]

    play(scene)


def test_a_token_is_shown_once_and_stored_nowhere(play, tmp_path):
    async def scene(api: Api) -> None:
        key = {"Idempotency-Key": "once"}
        made = await api.post("/tokens", json={"name": "gpu boxes", "role": "worker"}, headers=key)
        secret = made.json()["token"].rpartition("_")[2]
        again = await api.post("/tokens", json={"name": "gpu boxes", "role": "worker"}, headers=key)
        assert again.status_code == 409
        assert again.json()["type"] == "urn:tunesmith:already_created"
        assert "a secret is never shown twice" in again.json()["detail"]
        listed = (await api.get("/tokens")).text
        assert secret not in listed
        stored = b"".join(p.read_bytes() for p in tmp_path.iterdir() if p.suffix.startswith(".db"))
        assert secret.encode() not in stored

    play(scene)


def test_a_session_opens_pages_and_never_the_api(play):
    async def scene(api: Api) -> None:
        code = (await api.post("/login-codes", role="viewer")).json()["code"]
        secret = await sessions.redeem(api.service, code)
        cookie = {"Cookie": f"{api.service.gate.cookie}={secret}"}
        assert (await api.get("/studies", token="", headers=cookie)).status_code == 401
        assert (await api.get("/ui/studies", base="", token="", headers=cookie)).status_code == 200
        bearer = await api.get("/ui/studies", base="")
        assert bearer.status_code == 303  # to the login page: a bearer token opens no page

    play(scene)


def test_a_login_code_works_once_and_for_ten_minutes(play):
    async def scene(api: Api) -> None:
        from tunesmith_service.errors import LoginCodeInvalid

        code = (await api.post("/login-codes")).json()["code"]
        await sessions.redeem(api.service, code)
        with pytest.raises(LoginCodeInvalid, match="`tunesmith login` prints a new one"):
            await sessions.redeem(api.service, code)
        late = (await api.post("/login-codes")).json()["code"]
        api.clock.advance(601 * SECOND)
        with pytest.raises(LoginCodeInvalid):
            await sessions.redeem(api.service, late)

    play(scene)


@pytest.mark.parametrize(
    "host", ["evil.example", "127.0.0.1.evil.example", "", "127.0.0.1@evil.example", "[::1"]
)
def test_a_foreign_host_is_refused_whatever_the_method(play, host):
    async def scene(api: Api) -> None:
        for method in ("GET", "POST", "PUT", "DELETE", "PATCH", "OPTIONS"):
            answer = await api.call(method, "/studies", headers={"Host": host})
            assert answer.status_code == 403
            assert "--allowed-hosts" in answer.json()["detail"]

    play(scene)


def test_hosts_that_were_allowed_are_served(play):
    async def scene(api: Api) -> None:
        for host in ("service:8787", "LOCALHOST:1", "[::1]:8787", "lab.example.org"):
            assert (await api.get("/studies", headers={"Host": host})).status_code == 200

    play(scene, allowed_hosts="service", public_url="https://lab.example.org")


def test_a_page_of_another_origin_changes_nothing(play):
    async def scene(api: Api) -> None:
        for method in ("POST", "PUT", "DELETE", "PATCH"):
            answer = await api.call(method, "/tokens/x", headers={"Origin": "http://127.0.0.1:9999"})
            assert answer.status_code == 403
            assert "may not change anything here" in answer.json()["detail"]
        ours = await api.post("/login-codes", headers={"Origin": "http://127.0.0.1"})
        assert ours.status_code == 201
        assert (await api.get("/studies", headers={"Origin": "http://evil.example"})).status_code == 200

    play(scene)


def test_a_route_without_a_policy_cannot_be_made():
    routes = router()
    with pytest.raises(PolicyMissingError, match=r"\['GET'\] /secret declares no policy"):

        @routes.get("/secret")
        async def secret() -> None: ...


def test_what_is_no_route_of_ours_keeps_the_server_from_starting(tmp_path):
    async def anything(*_: object) -> None: ...

    async def plain(request: object) -> PlainTextResponse:
        return PlainTextResponse("")

    for add in (
        lambda a: a.mount("/mounted", anything),
        lambda a: a.add_route("/plain", plain),
        lambda a: a.add_api_route("/framework", public(plain)),
        lambda a: a.add_api_websocket_route("/socket", public(plain)),
    ):
        other = app(tmp_path)
        add(other)
        with pytest.raises(PolicyMissingError, match="is not a route with a policy"):
            check_policies(other)


def test_a_head_request_gets_no_further_than_its_method(play):
    async def scene(api: Api) -> None:
        for route in MATRIX:
            _, path = path_of(route)
            assert (await api.call("HEAD", path)).status_code in (404, 405)

    play(scene)


def test_the_first_start_leaves_tokens_that_their_owner_alone_can_read(served: Served):
    for role in (Role.OPERATOR, Role.WORKER):
        mode = stat.S_IMODE((served.home / f"{role}.token").stat().st_mode)
        assert mode == 0o600
    said = served.process.said
    assert served.token("operator").rpartition("_")[2] not in said
