"""Where a person is logged in, over HTTP; and the way back to where they were."""

from __future__ import annotations

import re
from urllib.parse import quote, urlsplit

import httpx
import pytest
from tunesmith_service.ui.way_back import kept
from ui.conftest import Dashboard, csrf

FIREFOX = "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0"
EVIL = (
    "https://evil.example", "//evil.example", "/\\evil.example", "\\\\evil.example", "///evil.example",
    "/studies", "%2f%2fevil", "javascript:alert(1)", "javascript%3Aalert(1)", "data:text/html,x", "a:b/c",
    "studies/../../evil", "studies/%2e%2e/x", "studies/%2E./x", "studies\\..\\x", "./login", "..", ".", "",
    "studies//evil", "studies/5 \r\nSet-Cookie: x=1", "studies/5\x00", "studies/" + "5" * 3000,
    "studies/5#code=x",
    "login", "login?to=studies", "logout", "static/x", "session", "ü", "studies/\u202e5", "<script>",
)  # fmt: skip
GOOD = (
    "studies", "studies/5", "studies/5/trials/7", "studies/5/explore?filter=lr%3C0.1&sort=-value&columns=a,b",
    "compare?trials=1:55,1:48", "settings", "studies/5?url=https%3A%2F%2Fevil.example", "studies/5?x=//evil",
)  # fmt: skip


@pytest.mark.parametrize("to", EVIL)
def test_an_address_that_is_no_page_of_ours_leads_to_the_studies(to: str):
    assert kept(to) == "studies"


@pytest.mark.parametrize("to", GOOD)
def test_a_page_of_ours_is_kept(to: str):
    assert kept(to) == to


@pytest.mark.parametrize("to", [*EVIL, *GOOD])
def test_logging_in_never_leaves_the_dashboard(dashboard: Dashboard, to: str):
    code = dashboard.login_link().partition("code=")[2]
    sent = {"code": code, "to": to}
    answer = dashboard.ask("POST", "/ui/login", data=sent, headers={"Origin": dashboard.url})
    assert answer.status_code == 303
    there = answer.headers["location"]
    found = httpx.URL(dashboard.url).join(there)  # as a browser resolves it
    assert (found.host, found.port) == ("127.0.0.1", dashboard.port)
    assert urlsplit(there).path.startswith("/ui/")
    assert there == (f"/ui/{to}" if to in GOOD else "/ui/studies")


@pytest.mark.parametrize("to", EVIL)
def test_the_login_page_offers_no_way_out_either(dashboard: Dashboard, to: str):
    if len(to) < 3000:
        html = dashboard.ask("GET", f"/ui/login?to={quote(to, safe='')}").text
        assert re.findall(r'name="to" value="([^"]*)"', html) == [str(kept(to))]
        assert re.findall(r'<a href="([^"]*)">Go on', html) == [f"/ui/{kept(to)}"]


@pytest.mark.parametrize("path", [p for p in GOOD if p != "studies"])
def test_a_page_asked_for_without_a_session_comes_after_logging_in(dashboard: Dashboard, path: str):
    with dashboard.stranger(headers={"Origin": dashboard.url}) as client:
        sent = client.get(f"/ui/{path}")
        assert (sent.status_code, urlsplit(sent.headers["location"]).path) == (303, "/ui/login")
        html = client.get(sent.headers["location"]).text
        to = re.search(r'name="to" value="([^"]*)"', html)
        assert to is not None
        code = dashboard.login_link().partition("code=")[2]
        sent = client.post("/ui/login", data={"code": code, "to": to[1].replace("&amp;", "&")})
        assert httpx.URL(sent.headers["location"]) == httpx.URL(f"/ui/{path}")


def test_a_wrong_code_does_not_forget_the_way_back(dashboard: Dashboard):
    sent = {"code": "mistyped", "to": "studies/5"}
    answer = dashboard.ask("POST", "/ui/login", data=sent, headers={"Origin": dashboard.url})
    assert (answer.status_code, 'value="studies/5"' in answer.text) == (403, True)


@pytest.mark.parametrize("accept", ["application/json", "text/event-stream"])
def test_a_script_of_an_open_page_is_refused_and_not_led_elsewhere(dashboard: Dashboard, accept: str):
    path = f"/ui/studies/{dashboard.study}/views/history"
    answer = dashboard.ask("GET", path, headers={"Accept": accept})
    assert (answer.status_code, answer.text) == (401, "Your session has ended; log in again.")


def test_whose_session_it_is_can_be_asked_without_one(dashboard: Dashboard, person: httpx.Client):
    assert dashboard.ask("GET", "/ui/session").json() == {"name": None}
    assert person.get("/ui/session").json() == {"name": "first operator"}


# --- the list -------------------------------------------------------------------------------------


def rows(html: str) -> list[str]:
    table = html.partition("Where you are logged in")[2].partition("</tbody>")[0].partition("<tbody>")[2]
    return re.findall(r"<tr.*?</tr>", table, re.DOTALL)


def test_the_settings_list_ones_sessions_and_mark_this_one(dashboard: Dashboard):
    token = dashboard.token("viewer")
    with dashboard.login(token, FIREFOX) as mine, dashboard.login(token) as other:
        listed = rows(mine.get("/ui/settings").text)
        assert len(listed) == 2
        (marked,) = [r for r in listed if "this one" in r]
        assert "Firefox on Linux" in marked
        assert marked.count("<time") == 3  # begun, last seen, ends by
        (marked,) = [r for r in rows(other.get("/ui/settings").text) if "this one" in r]
        assert "another browser" in marked
        assert len(rows(mine.get("/ui/settings").text)) == 2  # and none of anybody else's


def test_ending_this_session_leads_to_the_login_page_and_ending_another_does_not(
    dashboard: Dashboard,
):
    token = dashboard.token("viewer")
    with dashboard.login(token) as mine, dashboard.login(token) as other:
        page = mine.get("/ui/settings").text
        word = {"Tunesmith-CSRF": csrf(page)}
        ends = {"this one" in r: re.findall(r'hx-post="([^"]*)"', r)[0] for r in rows(page)}
        done = mine.post(ends[False], headers=word)
        assert (done.status_code, done.headers["hx-refresh"]) == (204, "true")
        assert other.get("/ui/studies").status_code == 303
        assert mine.post(ends[False], headers=word).status_code == 404
        done = mine.post(ends[True], headers=word)
        assert (done.status_code, done.headers["hx-redirect"]) == (204, "/ui/login")
        assert mine.get("/ui/studies").status_code == 303


def test_nobody_ends_the_session_of_another_token(dashboard: Dashboard, person: httpx.Client):
    with dashboard.login(dashboard.token("viewer")) as theirs:
        path = re.findall(r'hx-post="([^"]*/sessions/\w{16}/end)"', theirs.get("/ui/settings").text)[0]
        word = {"Tunesmith-CSRF": csrf(person.get("/ui/settings").text)}
        assert person.post(path, headers=word).status_code == 404
        assert theirs.get("/ui/studies").status_code == 200


def test_logging_out_everywhere_ends_all_of_them(dashboard: Dashboard):
    token = dashboard.token("viewer")
    with dashboard.login(token) as mine, dashboard.login(token) as other:
        word = {"Tunesmith-CSRF": csrf(mine.get("/ui/settings").text)}
        done = mine.post("/ui/settings/sessions/end", headers=word)
        assert (done.status_code, done.headers["hx-redirect"]) == (204, "/ui/login")
        assert "max-age=0" in done.headers["set-cookie"].lower()
        assert [c.get("/ui/studies").status_code for c in (mine, other)] == [303, 303]
    with dashboard.login(token) as again:  # the token itself goes on working
        assert again.get("/ui/studies").status_code == 200
