"""How a browser's session ends, and what its holder sees of it; on a clock turned by hand."""

from __future__ import annotations

import re
from typing import Any

import httpx
import pytest
from sqlalchemy import select
from tunesmith_service import sessions, tables
from tunesmith_service.browsers import UNKNOWN, browser_of
from tunesmith_service.clock import SECOND
from tunesmith_service.tokens import hash_secret

from .conftest import Api

HOUR = 3600 * SECOND
FIREFOX = "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0"


async def log_in(api: Api, role: str = "viewer", **more: Any) -> str:
    """A new session's secret."""
    code = (await api.post("/login-codes", role=role)).json()["code"]
    return await sessions.redeem(api.service, code, **more)


async def open_page(api: Api, secret: str, path: str = "/ui/studies", **headers: str) -> httpx.Response:
    cookie = {"Cookie": f"{api.service.gate.cookie}={secret}"}
    return await api.get(path, base="", token="", headers=cookie | headers)


async def is_open(api: Api, secret: str) -> bool:
    return (await open_page(api, secret)).status_code == 200


def last_seen(api: Api, secret: str) -> int:
    """As the database knows it."""
    s = tables.sessions
    with api.service.engine.connect() as conn:
        return conn.execute(
            select(s.c.last_seen_us).where(s.c.session_hash == hash_secret(secret))
        ).scalar_one()


async def write_down(api: Api) -> None:
    """What the sweeper does once a minute."""
    await api.service._note_use()
    api.service.gate.forget()  # as it forgets by itself within a second


def test_a_session_that_sends_nothing_for_twelve_hours_ends(play_on_each):
    async def scene(api: Api) -> None:
        used, idle = await log_in(api), await log_in(api)
        for _ in range(3):
            api.clock.advance(5 * HOUR)
            assert await is_open(api, used)
            await write_down(api)
        assert not await is_open(api, idle)
        api.clock.advance(12 * HOUR)
        assert not await is_open(api, used)
        assert not await is_open(api, used)  # and asking has not brought it back

    play_on_each(scene)


def test_the_idle_limit_is_a_setting_and_counts_from_what_this_server_saw_last(play):
    async def scene(api: Api) -> None:
        secret = await log_in(api)
        for _ in range(4):  # nothing of it is written down
            api.clock.advance(599 * SECOND)
            assert await is_open(api, secret)
        api.clock.advance(600 * SECOND)
        assert not await is_open(api, secret)

    play(scene, session_idle_seconds=600)


def test_a_session_in_daily_use_ends_after_a_week_all_the_same(play):
    async def scene(api: Api) -> None:
        secret = await log_in(api)
        for hour in range(0, 7 * 24, 6):
            assert await is_open(api, secret), hour
            api.clock.advance(6 * HOUR)
        assert not await is_open(api, secret)

    play(scene)


def test_when_a_session_was_seen_is_written_at_most_once_a_minute(play_on_each):
    async def scene(api: Api) -> None:
        secret = await log_in(api)
        begun = last_seen(api, secret)
        api.clock.advance(59 * SECOND)
        assert await is_open(api, secret)
        assert last_seen(api, secret) == begun  # a request writes nothing
        await write_down(api)
        assert last_seen(api, secret) == begun
        api.clock.advance(2 * SECOND)
        assert await is_open(api, secret)
        await write_down(api)
        assert last_seen(api, secret) == begun + 61 * SECOND
        assert not api.service.gate.seen

    play_on_each(scene)


def test_rows_of_idle_sessions_are_forgotten(play):
    async def scene(api: Api) -> None:
        await log_in(api)
        api.clock.advance(13 * HOUR)
        used = await log_in(api)
        assert await is_open(api, used)
        await write_down(api)
        with api.service.engine.connect() as conn:
            left = conn.execute(select(tables.sessions.c.session_hash)).scalars().all()
        assert [bytes(h) for h in left] == [hash_secret(used)]

    play(scene)


def test_logging_in_makes_a_new_secret_and_ends_the_browsers_old_session(play):
    async def scene(api: Api) -> None:
        old, other = await log_in(api), await log_in(api)
        new = await log_in(api, before=old)
        assert new != old
        assert await is_open(api, new)
        assert await is_open(api, other)
        assert not await is_open(api, old)

    play(scene)


def test_a_secret_that_a_stranger_has_planted_never_becomes_a_session(play):
    """Session fixation: the browser comes with a cookie of somebody else's making."""

    async def scene(api: Api) -> None:
        planted = "5" * 64
        code = (await api.post("/login-codes", role="viewer")).json()["code"]
        cookie = {"Cookie": f"{api.service.gate.cookie}={planted}", "Origin": "http://127.0.0.1"}
        answer = await api.post("/ui/login", base="", token="", headers=cookie, data={"code": code})
        assert answer.status_code == 303
        assert planted not in answer.headers["set-cookie"]
        assert not await is_open(api, planted)

    play(scene)


@pytest.mark.parametrize("how", ["revoke", "everywhere", "by key", "log out"])
def test_what_ends_a_session_ends_it_with_the_next_request(play, how: str):
    async def scene(api: Api) -> None:
        secret, other = await log_in(api), await log_in(api)
        assert await is_open(api, secret)
        assert await is_open(api, other)  # the gate remembers both
        token = await api.token("viewer")
        key = hash_secret(secret).hex()[:16]
        if how == "revoke":
            await api.call("DELETE", f"/tokens/{token.split('_')[1]}")
        elif how == "everywhere":
            assert (await api.call("DELETE", "/sessions", token=token)).status_code == 204
        elif how == "by key":
            assert (await api.call("DELETE", f"/sessions/{key}", token=token)).status_code == 204
        else:
            await sessions.end(api.service, secret)
        assert not await is_open(api, secret)
        assert await is_open(api, other) == (how in ("by key", "log out"))

    play(scene)


@pytest.mark.parametrize("how", ["revoke", "everywhere"])
def test_a_login_link_that_nobody_has_used_ends_with_the_sessions(play, how: str):
    async def scene(api: Api) -> None:
        from tunesmith_service.errors import LoginCodeInvalid

        token = await api.token("viewer")
        code = (await api.post("/login-codes", token=token)).json()["code"]
        if how == "revoke":
            await api.call("DELETE", f"/tokens/{token.split('_')[1]}")
        else:
            await api.call("DELETE", "/sessions", token=token)
        with pytest.raises(LoginCodeInvalid):
            await sessions.redeem(api.service, code)

    play(scene)


def test_logging_out_everywhere_leaves_the_token_and_other_peoples_sessions(play):
    async def scene(api: Api) -> None:
        mine, theirs = await log_in(api), await log_in(api, "researcher")
        await api.call("DELETE", "/sessions", role="viewer")
        assert not await is_open(api, mine)
        assert await is_open(api, theirs)
        assert (await api.get("/studies", role="viewer")).status_code == 200

    play(scene)


def test_a_token_sees_its_own_sessions_the_last_used_first(play_on_each):
    async def scene(api: Api) -> None:
        first = await log_in(api, user_agent=FIREFOX)
        api.clock.advance(10 * SECOND)
        await log_in(api)
        await log_in(api, "researcher")
        api.clock.advance(10 * SECOND)
        assert await is_open(api, first)
        listed = (await api.get("/sessions", role="viewer")).json()["items"]
        assert [s["browser"] for s in listed] == ["Firefox on Linux", UNKNOWN]
        assert listed[0]["last_seen_at"] > listed[1]["last_seen_at"] > listed[0]["begun_at"]
        assert listed[0]["key"] == hash_secret(first).hex()[:16]
        assert first not in str(listed)
        api.clock.advance(13 * HOUR)
        assert (await api.get("/sessions", role="viewer")).json()["items"] == []

    play_on_each(scene)


def test_nobody_ends_a_session_of_another_token(play):
    async def scene(api: Api) -> None:
        theirs = await log_in(api, "researcher")
        key = hash_secret(theirs).hex()[:16]
        for role in ("viewer", "operator"):
            answer = await api.call("DELETE", f"/sessions/{key}", role=role)
            assert answer.status_code == 404
            assert "it has ended already, or is another's" in answer.json()["detail"]
        assert await is_open(api, theirs)

    play(scene)


@pytest.mark.parametrize(
    ("agent", "said"),
    [
        (FIREFOX, "Firefox on Linux"),
        ("Mozilla/5.0 (Windows NT 10.0; x64) … Chrome/140.0 Safari/537.36 Edg/140.0", "Edge on Windows"),
        ("Mozilla/5.0 (Macintosh; Intel Mac OS X 10_15_7) … Version/18.0 Safari/605.1.15", "Safari on macOS"),
        ("Mozilla/5.0 (Linux; Android 15) … Chrome/140.0.0.0 Mobile Safari/537.36", "Chrome on Android"),
        ("Mozilla/5.0 (iPhone; CPU iPhone OS 18_0 like Mac OS X) … CriOS/140.0 Safari", "Chrome on iPhone"),
        ("", UNKNOWN),
        ("<img src=x onerror=alert(1)>\x1b[31m" * 1000, UNKNOWN),
    ],
)  # fmt: skip
def test_a_browser_is_named_in_our_own_words(agent: str, said: str):
    assert browser_of(agent) == said
    assert re.fullmatch(r"[A-Za-z ]{1,64}", browser_of(agent))


# --- too many tries -------------------------------------------------------------------------------


async def try_code(api: Api, code: str) -> httpx.Response:
    origin = {"Origin": "http://127.0.0.1"}
    return await api.post("/ui/login", base="", token="", headers=origin, data={"code": code})


def test_guessing_login_codes_is_slowed_down_and_says_how_long(play):
    async def scene(api: Api) -> None:
        for _ in range(10):
            assert (await try_code(api, "guess")).status_code == 403
        good = (await api.post("/login-codes")).json()["code"]
        answer = await try_code(api, good)
        assert answer.status_code == 429
        assert 1 <= int(answer.headers["retry-after"]) <= 10
        assert "Too many tries from 127.0.0.1; try again in" in answer.text
        api.service.login_tries.forgive("127.0.0.1")  # as time does
        assert (await try_code(api, good)).status_code == 303  # the refusal has not used the code up

    play(scene)


def test_a_good_code_forgives_the_bad_ones_before_it(play):
    async def scene(api: Api) -> None:
        for _ in range(3):
            for _ in range(9):
                assert (await try_code(api, "mistyped")).status_code == 403
            good = (await api.post("/login-codes")).json()["code"]
            assert (await try_code(api, good)).status_code == 303

    play(scene)
