"""Behind a proxy's path: what the service makes of it, asked with the path and without."""

from __future__ import annotations

import asyncio

import httpx
import pytest
from tunesmith_service.app import create_app
from tunesmith_service.sessions import new_code
from tunesmith_service.settings import Settings

PUBLIC = "https://lab.example.org/lab/tunesmith"
ORIGIN = "https://lab.example.org"


@pytest.mark.parametrize("asked", ["", "/lab/tunesmith"], ids=["cut off", "left on"])
def test_links_and_the_cookie_have_the_prefix_whether_the_proxy_cuts_it_off_or_not(tmp_path, asked: str):
    app = create_app(Settings(home=tmp_path, planner=False, behind_proxy=True, public_url=PUBLIC))

    async def visit() -> None:
        async with app.router.lifespan_context(app):
            proxy = httpx.AsyncClient(
                transport=httpx.ASGITransport(app), base_url=ORIGIN, headers={"Origin": ORIGIN}
            )
            async with proxy:
                door = await proxy.get(f"{asked}/ui/studies")
                assert (door.status_code, door.headers["location"]) == (303, "/lab/tunesmith/ui/login")
                code = await new_code(app.state.service, 1)
                entered = await proxy.post(f"{asked}/ui/login", data={"code": code})
                assert entered.headers["location"] == "/lab/tunesmith/ui/studies"
                cookie = entered.headers["set-cookie"]
                assert cookie.startswith("__Secure-tunesmith-")
                assert "Path=/lab/tunesmith/ui;" in cookie
                assert "Secure" in cookie.partition("Path=")[2]
                sent = {"Cookie": cookie.partition(";")[0]}
                page = await proxy.get(f"{asked}/ui/studies", headers=sent)
                assert page.status_code == 200
                assert 'href="/lab/tunesmith/ui/workers"' in page.text
                assert (await proxy.get(f"{asked}/healthz")).status_code == 200
                assert (await proxy.get(f"{asked}/api/v1/studies")).status_code == 401

    asyncio.run(visit())


def test_a_path_that_only_begins_like_the_prefix_is_another(tmp_path):
    app = create_app(Settings(home=tmp_path, planner=False, public_url="http://localhost/lab"))

    async def visit() -> None:
        async with (
            app.router.lifespan_context(app),
            httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://localhost") as client,
        ):
            assert (await client.get("/lab/healthz")).status_code == 200
            assert (await client.get("/label/healthz")).status_code == 404
            assert (await client.get("/lab/lab/healthz")).status_code == 404
            assert (await client.get("/lab")).headers["location"] == "/lab/ui/studies"

    asyncio.run(visit())
