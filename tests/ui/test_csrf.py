"""No other site, tab or session makes a change on any page: each change there is, tried each wrong way."""

from __future__ import annotations

import re
from collections.abc import Iterator

import httpx
import pytest
from fastapi.routing import iter_route_contexts
from tunesmith_service.routing import Route
from tunesmith_service.ui.pages import routes
from ui.conftest import Dashboard, csrf

CHANGES = [
    c.original_route
    for c in iter_route_contexts(routes.routes)
    if not c.original_route.methods <= {"GET", "HEAD"} and c.original_route.path != "/ui/login"
]
WORD = "Tunesmith-CSRF"


def test_there_are_changes_to_try():
    assert len(CHANGES) >= 8


@pytest.fixture(scope="module")
def other(dashboard: Dashboard) -> Iterator[httpx.Client]:
    """Another session of the same token."""
    with dashboard.login() as client:
        yield client


@pytest.mark.parametrize("route", CHANGES, ids=lambda r: r.path)
def test_no_change_is_made_without_the_word_of_a_page_of_the_same_session(
    dashboard: Dashboard, person: httpx.Client, other: httpx.Client, route: Route
):
    method, path = asked(route)
    page = person.get("/ui/settings").text
    mine, theirs = csrf(page), csrf(other.get("/ui/settings").text)
    for word in (None, "", "0" * 32, "0" * 64, mine[:-1], mine[:-2], mine + "00", "é" * 32, theirs):
        sent = {} if word is None else {WORD: word.encode("latin-1")}
        answer = person.request(method, path, headers=sent)
        assert answer.status_code == 403, (path, word)
        assert "reload it and try again" in answer.text


@pytest.mark.parametrize("route", CHANGES, ids=lambda r: r.path)
def test_no_change_is_made_by_a_page_from_elsewhere_even_with_the_word(
    dashboard: Dashboard, person: httpx.Client, route: Route
):
    method, path = asked(route)
    word = {WORD: csrf(person.get("/ui/settings").text)}
    port = dashboard.port
    for origin in ("https://evil.example", "null", f"http://127.0.0.1:{port + 1}", f"https://127.0.0.1:{port}",
                   f"http://127.0.0.1.evil.example:{port}", f"http://localhost:{port}", ""):  # fmt: skip
        answer = person.request(method, path, headers=word | {"Origin": origin})
        assert answer.status_code == 403, (path, origin)
        assert "may not change anything here" in answer.text
    for site in ("cross-site", "same-site", "none", "Cross-Site", "nonsense"):
        answer = person.request(method, path, headers=word | {"Sec-Fetch-Site": site})
        assert answer.status_code == 403, (path, site)
        assert "may not change anything here" in answer.text
    del person.headers["Origin"]
    try:
        assert person.request(method, path, headers=word).status_code == 403
    finally:
        person.headers["Origin"] = dashboard.url


@pytest.mark.parametrize("route", CHANGES, ids=lambda r: r.path)
def test_a_get_changes_nothing(person: httpx.Client, route: Route):
    """What a link or an image can ask for: each change answers to its own method alone."""
    _, path = asked(route)
    assert not route.methods & {"GET", "HEAD"}
    assert person.get(path, headers={WORD: "0" * 64}).status_code in (200, 404, 405, 422)


def asked(route: Route) -> tuple[str, str]:
    """A change's method, and its path with an example in each place."""
    return sorted(route.methods)[0], re.sub(r"\{(\w+)(:path)?\}", "1", route.path)


# --- logging in for somebody ----------------------------------------------------------------------


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
        {},
        {"Origin": "OURS", "Sec-Fetch-Site": "cross-site"},
        {"Origin": "OURS", "Sec-Fetch-Site": "same-site"},
    ],
)
def test_another_site_logs_nobody_in_as_somebody_else(dashboard: Dashboard, headers: dict[str, str]):
    """Login CSRF: an attacker's own good code, sent by the victim's browser."""
    code = dashboard.login_link(dashboard.token("viewer")).partition("code=")[2]
    sent = {k: v.replace("OURS", dashboard.url) for k, v in headers.items()}
    answer = dashboard.ask("POST", "/ui/login", data={"code": code}, headers=sent)
    assert answer.status_code == 403
    assert "set-cookie" not in answer.headers
    mine = {"Origin": dashboard.url, "Sec-Fetch-Site": "same-origin"}
    assert dashboard.ask("POST", "/ui/login", data={"code": code}, headers=mine).status_code == 303
