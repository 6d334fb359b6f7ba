"""Security headers on every answer, whatever gives it."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx
import pytest
from fastapi.routing import iter_route_contexts
from tunesmith_service import sessions, store
from tunesmith_service.app import create_app
from tunesmith_service.settings import Settings

from .conftest import Api, study
from .test_security import path_of

ALWAYS = {
    "x-content-type-options": {"nosniff"},
    "x-frame-options": {"DENY"},
    "referrer-policy": {"no-referrer", "same-origin"},
    "cross-origin-opener-policy": {"same-origin"},
    "cross-origin-resource-policy": {"same-origin"},
}
POLICIES = (
    "default-src 'none'; frame-ancestors 'none'",
    "default-src 'self'; script-src 'self'; ",
    "sandbox; default-src 'none'",
)


def missing(answer: httpx.Response) -> list[str]:
    """What an answer should say and does not."""
    wrong = [name for name, good in ALWAYS.items() if answer.headers.get(name) not in good]
    policy = answer.headers.get("content-security-policy", "")
    if not policy.startswith(POLICIES) or "unsafe" in policy:
        wrong.append(f"content-security-policy {policy!r}")
    if "camera=()" not in answer.headers.get("permissions-policy", ""):
        wrong.append("permissions-policy")
    if "server" in answer.headers or "access-control-allow-origin" in answer.headers:
        wrong.append("says too much")
    return [f"{answer.request.method} {answer.request.url.path} {answer.status_code}: {w}" for w in wrong]


def test_every_route_of_the_application_carries_them_in_whatever_it_answers(play):
    async def scene(api: Api) -> None:
        assert (await api.post("/studies", json=study())).status_code == 201
        await api.enqueue("study")
        secret = await sessions.redeem(api.service, (await api.post("/login-codes")).json()["code"])
        app = api._transport.app  # type: ignore[attr-defined]
        cookie = {"Cookie": f"{api.service.gate.cookie}={secret}", "Origin": "http://127.0.0.1"}
        asked = [
            path_of(f"{method} {context.path}")
            for context in iter_route_contexts(app.router.routes)
            for method in sorted(context.methods)
            if not context.path.endswith("/stream")  # has no end; see test_a_stream_carries_them
        ]
        assert len(asked) > 100
        wrong: list[str] = []
        seen: set[int] = set()
        for method, path in asked:
            for more in ({"token": ""}, {"headers": cookie, "token": ""}, {"role": "operator"}):
                answer = await api.call(method, path, base="", **more)
                seen.add(answer.status_code)
                wrong += missing(answer)
        assert not wrong, "\n".join(wrong)
        assert {200, 204, 303, 307, 401, 403, 404, 422} <= seen

    play(scene)


@pytest.mark.parametrize(
    ("method", "path", "status", "more"),
    [
        ("GET", "/nowhere", 404, {}),
        ("GET", "/ui/static/none.js", 404, {}),
        ("PATCH", "/healthz", 405, {}),
        ("GET", "/healthz", 403, {"headers": {"Host": "evil.example"}}),
        ("POST", "/api/v1/studies", 403, {"headers": {"Origin": "http://evil.example"}}),
        ("GET", f"/healthz?{'x' * 5000}", 400, {}),
        ("POST", "/api/v1/studies", 413, {"content": b" " * 2_000_000}),
        ("POST", "/api/v1/studies", 422, {"content": b"{", "headers": {"Content-Type": "application/json"}}),
    ],
)
def test_refusals_carry_them(play, method: str, path: str, status: int, more: dict[str, Any]):
    async def scene(api: Api) -> None:
        answer = await api.call(method, path, base="", **more)
        assert answer.status_code == status
        assert not missing(answer)

    play(scene)


def test_our_own_fault_carries_them_too(tmp_path, monkeypatch: pytest.MonkeyPatch):
    def broken(*_: object) -> None:
        raise RuntimeError("broken on purpose")

    async def ask() -> httpx.Response:
        app = create_app(
            Settings(home=tmp_path, planner=False, reserve_bytes=0, reserve_percent=0, ballast_bytes=0)
        )
        async with app.router.lifespan_context(app):
            monkeypatch.setattr(store, "token_by_key", broken)
            transport = httpx.ASGITransport(app, raise_app_exceptions=False)
            async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
                bearer = {"Authorization": f"Bearer tsm_{'0' * 16}_{'0' * 64}"}
                return await client.get("/api/v1/studies", headers=bearer)

    answer = asyncio.run(ask())
    assert answer.status_code == 500
    assert not missing(answer)


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("https://localhost", True),
        ("https://localhost:443", True),
        ("https://localhost:8787", False),
        ("https://[::1]:8787", False),
        ("http://localhost", False),
        ("http://localhost:443", False),
    ],
)
def test_only_who_has_the_hosts_https_binds_browsers_to_it(play, url: str, expected: bool):
    """Strict-Transport-Security holds for all ports of a name, and others may live there on plain http."""

    async def scene(api: Api) -> None:
        async with httpx.AsyncClient(transport=api._transport, base_url=url) as client:
            host = {"Host": url.partition("//")[2]}
            for path in ("/healthz", "/ui/login", "/nowhere"):
                sent = (await client.get(path, headers=host)).headers.get("strict-transport-security")
                assert sent == ("max-age=31536000" if expected else None)

    play(scene)


def test_pages_say_where_violations_are_told_and_nothing_else_does(play):
    async def scene(api: Api) -> None:
        page = await api.get("/ui/login", base="", token="")
        assert page.headers["content-security-policy"].endswith("; report-uri /csp-reports")
        assert "reporting-endpoints" not in page.headers  # over http nobody would send them any
        async with httpx.AsyncClient(transport=api._transport, base_url="https://localhost") as client:
            page = await client.get("/ui/login")
        assert page.headers["reporting-endpoints"] == 'csp="/csp-reports"'
        assert page.headers["content-security-policy"].endswith("; report-uri /csp-reports; report-to csp")
        answer = await api.get("/studies")
        assert "reporting-endpoints" not in answer.headers
        assert answer.headers["content-security-policy"].startswith("default-src 'none'; ")

    play(scene)


def test_a_program_that_a_worker_left_comes_as_bytes_to_be_saved(play):
    """Stored XSS: an SVG or a page among the artifacts."""

    async def scene(api: Api) -> None:
        import hashlib

        body = b"<svg xmlns='http://www.w3.org/2000/svg' onload='alert(1)'/>"
        sha256 = hashlib.sha256(body).hexdigest()
        lease = await api.lease()
        put = await api.call(
            "PUT",
            f"/leases/{lease.trial_id}/blobs/{sha256}",
            role="worker",
            headers=lease.headers,
            content=body,
        )
        assert put.status_code in (200, 201, 204), put.text
        for name in ("plot.svg", "page.html", 'a"b;c.html', "ü.xhtml"):
            kept = await api.say(lease, "artifacts", {"name": name, "sha256": sha256})
            assert kept.status_code == 200, kept.text
        here = "/studies/1/trials/0/artifacts"
        secret = await sessions.redeem(api.service, (await api.post("/login-codes")).json()["code"])
        cookie = {"Cookie": f"{api.service.gate.cookie}={secret}"}
        for name in ("plot.svg", "page.html", 'a"b;c.html', "ü.xhtml"):
            for answer in (
                await api.get(f"{here}/{name}"),
                await api.get(f"/ui{here}/{name}", base="", token="", headers=cookie),
            ):
                assert answer.status_code == 200, answer.text
                assert answer.headers["content-type"] == "application/octet-stream"
                assert answer.headers["content-disposition"].startswith("attachment; filename")
                assert answer.headers["content-security-policy"] == "sandbox; default-src 'none'"
                assert not missing(answer)

    play(scene)
