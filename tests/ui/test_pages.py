"""The dashboard over HTTP, as a browser and as an attacker would speak to it."""

from __future__ import annotations

import asyncio
import re
import secrets
import sqlite3
from contextlib import closing
from html.parser import HTMLParser

import httpx
import pytest
from fastapi.routing import iter_route_contexts
from markupsafe import escape
from processes import until
from tunesmith_service.app import create_app
from tunesmith_service.clock import SECOND, ManualClock
from tunesmith_service.routing import Route
from tunesmith_service.security import policy_of
from tunesmith_service.sessions import new_code
from tunesmith_service.settings import Settings
from tunesmith_service.ui.pages import routes
from ui.conftest import Dashboard, csrf

CSP = (
    "default-src 'self'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
    "connect-src 'self'; frame-ancestors 'none'"
)
OPEN = {"/", "/ui", "/ui/", "/ui/login", "/ui/session", "/ui/static/{name}"}


def path_of(route: Route, study: int) -> str:
    filled = {
        "study_id": study,
        "number": 24,
        "verb": "pause",
        "name": "x",
        "rest": "nowhere",
        "view": "history",
    }
    part = "log" if "trials" in route.path else "rows"
    return re.sub(r"\{(\w+)(:path)?\}", lambda m: str(filled.get(m[1], part)), route.path)


def all_routes() -> list[Route]:
    return [c.original_route for c in iter_route_contexts(routes.routes)]


def guarded() -> list[Route]:
    return [r for r in all_routes() if r.path not in OPEN]


def test_every_page_but_the_open_ones_asks_for_a_session():
    open_ = {r.path for r in all_routes() if policy_of(r.endpoint).role is None}
    assert open_ == OPEN
    assert len(guarded()) >= 10


@pytest.mark.parametrize("route", guarded(), ids=lambda r: f"{sorted(r.methods)[0]} {r.path}")
def test_without_a_session_a_page_leads_to_the_login_page(dashboard: Dashboard, route: Route):
    method = sorted(route.methods)[0]
    path = path_of(route, dashboard.study)
    answer = dashboard.ask(method, path, headers={"Origin": dashboard.url})
    if method == "GET":
        assert answer.status_code == 303
        assert answer.headers["location"].partition("?")[0] == "/ui/login"
    else:
        assert answer.status_code == 401
    part = dashboard.ask(method, path, headers={"Origin": dashboard.url, "HX-Request": "true"})
    assert (part.status_code, part.text) == (401, "Your session has ended; log in again.")
    assert "hx-redirect" not in part.headers  # session.js goes, unless somebody has typed something


def test_without_a_session_a_stream_is_refused_and_not_redirected(dashboard: Dashboard):
    asked = {"Accept": "text/event-stream"}
    answer = dashboard.ask("GET", f"/ui/studies/{dashboard.study}/stream", headers=asked)
    assert answer.status_code == 401


@pytest.mark.parametrize("path", ["/", "/ui", "/ui/"])
def test_a_short_address_leads_to_the_studies(dashboard: Dashboard, path: str):
    answer = dashboard.ask("GET", path)
    assert (answer.status_code, answer.headers["location"]) == (307, "/ui/studies")


def test_an_api_token_opens_no_page_and_a_session_no_api(dashboard: Dashboard, person: httpx.Client):
    bearer = {"Authorization": f"Bearer {dashboard.operator}"}
    assert dashboard.ask("GET", "/ui/studies", headers=bearer).status_code == 303
    assert person.get("/api/v1/studies").status_code == 401


@pytest.mark.parametrize(
    "path", ["/ui/login", "/ui/studies", "/ui/studies/{study}", "/ui/studies/{study}/trials/24",
             "/ui/studies/{study}/views/curves", "/ui/studies/999999", "/ui/nowhere"]
)  # fmt: skip
def test_every_answer_carries_the_security_headers(dashboard: Dashboard, person: httpx.Client, path: str):
    answer = person.get(path.format(study=dashboard.study))
    assert answer.headers["content-security-policy"].startswith(CSP)
    assert "unsafe" not in answer.headers["content-security-policy"]
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["referrer-policy"] == "same-origin"
    assert answer.headers["cache-control"] == "no-store"


class Unsafe(HTMLParser):
    """Gathers what a strict policy forbids, as a browser's parser sees it."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.found: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        names = dict(attrs)
        if (tag == "script" and "src" not in names) or tag in ("style", "iframe", "object", "embed", "img"):
            self.found.append(tag)
        self.found += [f"{tag} {name}" for name in names if name == "style" or name.startswith("on")]
        links = [v or "" for name, v in attrs if name in ("src", "href", "action", "hx-get", "hx-post")]
        self.found += [f"{tag} to {v}" for v in links if not v.startswith(("/ui/", "?", "#"))]


def test_pages_hold_no_inline_script_style_or_handler(dashboard: Dashboard, person: httpx.Client):
    assert Unsafe("<p onclick=x style=y><script>1</script><a href=http://z>").found != []
    study = f"/ui/studies/{dashboard.study}"
    for path in ("/ui/login", "/ui/studies", study, f"{study}/trials/33", "/ui/nowhere"):
        assert Unsafe(person.get(path).text).found == []


def test_static_files_may_be_kept_for_ever_and_come_compressed(dashboard: Dashboard):
    html = dashboard.ask("GET", "/ui/login").text
    css = re.search(r'href="(/ui/static/app\.[0-9a-f]{10}\.css)"', html)
    assert css is not None
    answer = dashboard.ask("GET", css[1])
    assert answer.headers["cache-control"] == "public, max-age=31536000, immutable"
    assert answer.headers["content-encoding"] == "gzip"
    assert answer.text.startswith("/*")
    plain = dashboard.ask("GET", css[1], headers={"Accept-Encoding": "identity"})
    assert "content-encoding" not in plain.headers
    assert plain.text == answer.text


# --- logging in and out ---------------------------------------------------------------------------


def test_the_login_link_keeps_its_code_behind_the_hash(dashboard: Dashboard):
    assert re.fullmatch(rf"{dashboard.url}/ui/login#code=[\w-]{{20,}}", dashboard.login_link())


def test_the_session_cookie_is_the_pages_alone(dashboard: Dashboard):
    code = dashboard.login_link().partition("code=")[2]
    answer = dashboard.ask("POST", "/ui/login", data={"code": code}, headers={"Origin": dashboard.url})
    assert (answer.status_code, answer.headers["location"]) == (303, "/ui/studies")
    name, _, rest = answer.headers["set-cookie"].partition("=")
    assert re.fullmatch(r"tunesmith-[0-9a-f]{12}", name)
    flags = {f.strip() for f in rest.split(";")[1:]}
    assert {"HttpOnly", "SameSite=strict", "Path=/ui"} <= flags


def test_a_login_code_works_once(dashboard: Dashboard):
    code = dashboard.login_link().partition("code=")[2]
    with dashboard.stranger(headers={"Origin": dashboard.url}) as first:
        assert first.post("/ui/login", data={"code": code}).status_code == 303
        again = first.post("/ui/login", data={"code": code})
    assert again.status_code == 403
    assert "This login link was used or has run out; `tunesmith login` prints a new one." in again.text
    assert "set-cookie" not in again.headers


def test_a_login_code_runs_out(tmp_path):
    clock = ManualClock()
    app = create_app(Settings(home=tmp_path, planner=False, login_code_seconds=60), clock)

    async def visit(seconds: int) -> httpx.Response:
        async with app.router.lifespan_context(app):
            origin = {"Origin": "http://localhost"}
            transport = httpx.ASGITransport(app)
            async with httpx.AsyncClient(
                transport=transport, base_url=origin["Origin"], headers=origin
            ) as client:
                code = await new_code(app.state.service, 1)
                clock.advance(seconds * SECOND)
                return await client.post("/ui/login", data={"code": code})

    assert asyncio.run(visit(59)).status_code == 303
    late = asyncio.run(visit(61))
    assert late.status_code == 403
    assert "was used or has run out; `tunesmith login` prints a new one." in late.text


def test_an_unknown_or_missing_code_gets_the_same_answer(dashboard: Dashboard):
    for form in ({"code": secrets.token_urlsafe(32)}, {"code": "<script>"}, {}):
        answer = dashboard.ask("POST", "/ui/login", data=form, headers={"Origin": dashboard.url})
        assert answer.status_code == 403
        assert "was used or has run out" in answer.text


def test_logging_out_ends_the_session_itself(dashboard: Dashboard):
    with dashboard.login() as client:
        page = client.get("/ui/studies")
        kept = dict(client.cookies)
        out = client.post("/ui/logout", headers={"Tunesmith-CSRF": csrf(page.text)})
        assert (out.status_code, out.headers["hx-redirect"]) == (204, "/ui/login")
        assert client.get("/ui/studies").status_code == 303

    def is_dead() -> bool:
        with dashboard.stranger(cookies=kept) as thief:
            return thief.get("/ui/studies").status_code == 303

    until(is_dead)


# --- other sites ----------------------------------------------------------------------------------


@pytest.mark.parametrize("origin", ["https://evil.example", "null", "http://127.0.0.1:1"])
def test_a_page_elsewhere_can_change_nothing(dashboard: Dashboard, person: httpx.Client, origin: str):
    sent = {"Origin": origin, "Tunesmith-CSRF": csrf(person.get("/ui/studies").text)}
    assert person.post(f"/ui/studies/{dashboard.study}/pause", headers=sent).status_code == 403
    assert dashboard.ask("POST", "/ui/login", data={"code": "x"}, headers=sent).status_code == 403


def test_a_change_needs_an_origin_and_the_page_s_own_word(dashboard: Dashboard, person: httpx.Client):
    path = f"/ui/studies/{dashboard.study}/pause"
    word = csrf(person.get("/ui/studies").text)
    with dashboard.stranger(cookies=person.cookies) as no_origin:
        assert no_origin.post(path, headers={"Tunesmith-CSRF": word}).status_code == 403
    assert person.post(path).status_code == 403
    assert person.post(path, headers={"Tunesmith-CSRF": word[:-1] + "x"}).status_code == 403


def test_a_foreign_host_name_is_refused(dashboard: Dashboard, person: httpx.Client):
    assert person.get("/ui/studies", headers={"Host": "evil.example"}).status_code == 403


@pytest.mark.parametrize("path", ["studies/cancer", "studies/1/trials/best", "studies/99999999", "nowhere"])
def test_an_address_that_leads_nowhere_is_a_page_that_leads_back(person: httpx.Client, path: str):
    answer = person.get(f"/ui/{path}")
    assert answer.status_code == 404
    assert answer.headers["content-type"].startswith("text/html")
    assert "/ui/studies" in answer.text


# --- what people see and do -----------------------------------------------------------------------


def test_the_list_shows_best_value_stages_and_counts(person: httpx.Client):
    html = person.get("/ui/studies").text
    assert "cifar-mini-resnet" in html
    assert re.search(r'<data class="num" value="0\.3\d+" title="0\.3\d+">0\.3\d{3}</data>', html)
    assert "coarse done" in html
    assert "refine active" in html


def test_the_study_page_shows_stages_with_their_why_and_the_best_trial(
    dashboard: Dashboard, person: httpx.Client
):
    html = person.get(f"/ui/studies/{dashboard.study}").text
    assert "24 cells ran once, 5 epochs each; 6 diverged, all of them at lr 0.5." in html
    assert "12 of up to 32 trials: 8 complete, 1 pruned, 1 failed, 1 running, 1 waiting" in html
    assert "Best so far" in html
    assert 'class="complete is-best"' in html
    assert "diverged at epoch 3" in html


def test_the_table_pages_and_filters_on_the_server(dashboard: Dashboard, person: httpx.Client):
    rows = f"/ui/studies/{dashboard.study}/parts/rows"
    shown = re.findall(r'id="trial-(\d+)"', person.get(f"{rows}?stage=coarse&state=pruned").text)
    assert [int(n) for n in shown] == [23, 22, 21, 20, 19, 18]
    older = re.findall(r'id="trial-(\d+)"', person.get(f"{rows}?after=2").text)
    assert older == ["1", "0"]
    best = re.findall(r'id="trial-(\d+)"', person.get(f"{rows}?order=best").text)
    assert best[0] == "24"
    assert len(best) == 26
    assert "No trial like that." in person.get(f"{rows}?stage=nothing").text


def test_the_curves_are_the_best_ten_the_running_ones_and_the_newest_pruned(
    dashboard: Dashboard, person: httpx.Client
):
    view = person.get(f"/ui/studies/{dashboard.study}/views/curves?train=false").json()
    assert (view["metric"], view["metrics"][0]) == ("val/loss", "val/loss")
    best = [c for c in view["curves"] if c["rank"] is not None]
    assert [c["rank"] for c in best] == list(range(10))
    assert (best[0]["number"], len(best[0]["at"])) == (24, 20)
    assert [c["number"] for c in view["curves"] if c["state"] == "running"] == [34]
    pruned = [c for c in view["curves"] if c["state"] == "pruned"]
    assert [(c["number"], c["pruned_at"]) for c in pruned[:2]] == [(32, 6), (23, None)]
    assert (pruned[0]["at"][-1], pruned[1]["lost"]) == (6, [3])
    path = f"/ui/studies/{dashboard.study}/views/curves?metric=val/accuracy&top=5"
    other = person.get(path).json()
    assert other["metric"] == "val/accuracy"
    splits = [(c["rank"], c["split"]) for c in other["curves"]][:4]
    assert splits == [(0, "val"), (0, "train"), (1, "val"), (1, "train")]


def test_a_failed_trial_shows_its_error_first(dashboard: Dashboard, person: httpx.Client):
    html = person.get(f"/ui/studies/{dashboard.study}/trials/33").text
    assert "mat1 and mat2 shapes cannot be multiplied (64x512 and 256x10)" in html
    assert html.index("my_tasks.py") < html.index("Hyperparameters")


def test_a_lost_worker_is_an_attempt_that_ended_and_no_failure(dashboard: Dashboard, person: httpx.Client):
    html = person.get(f"/ui/studies/{dashboard.study}/trials/34").text
    assert "lost: its lease expired; the trial waits again" in html
    assert "failed" not in html


def test_a_trial_shows_the_end_of_its_log_and_its_curves(dashboard: Dashboard, person: httpx.Client):
    page = f"/ui/studies/{dashboard.study}/trials/24"
    assert "epoch 20  lr 0.01  val/loss 0.1150" in person.get(page).text
    view = person.get(f"{page}/views/losses").json()
    assert view["groups"] == ["loss", "accuracy"]
    assert [c["name"] for c in view["lines"]] == ["val/loss", "train/loss"]
    diverged = person.get(f"/ui/studies/{dashboard.study}/trials/20/views/losses").json()
    assert [c["lost"] for c in diverged["lines"]] == [[3], [3]]


def test_what_does_not_exist_says_so_on_a_page(dashboard: Dashboard, person: httpx.Client):
    for path in ("/ui/studies/999999", f"/ui/studies/{dashboard.study}/trials/999", "/ui/nowhere"):
        answer = person.get(path)
        assert answer.status_code == 404
        assert answer.headers["content-type"].startswith("text/html")
    assert "has no trial #999." in person.get(f"/ui/studies/{dashboard.study}/trials/999").text


def test_a_viewer_sees_no_buttons_and_may_press_none(dashboard: Dashboard):
    with dashboard.login(dashboard.token("viewer")) as viewer:
        page = viewer.get(f"/ui/studies/{dashboard.study}")
        assert "popovertarget" not in page.text
        word = csrf(page.text)
        answer = viewer.post(f"/ui/studies/{dashboard.study}/stop", headers={"Tunesmith-CSRF": word})
        assert answer.status_code == 403
        assert "this needs the role researcher" in answer.text.lower()


def new_study(dashboard: Dashboard, name: str) -> int:
    study = {
        "name": name, "task": "light", "space": {"lr": [0.1, 0.2]},
        "stages": [{"kind": "coarse_grid", "name": name[:100], "epochs": 2}],
    }  # fmt: skip
    return int(dashboard.api("POST", "/studies", json=study).json()["id"])


def test_a_researcher_pauses_resumes_and_stops(dashboard: Dashboard):
    study = new_study(dashboard, "to be stopped")
    with dashboard.login(dashboard.token("researcher")) as client:
        page = client.get(f"/ui/studies/{study}")
        sent = {"Tunesmith-CSRF": csrf(page.text)}
        for verb, state in (("pause", "paused"), ("resume", "active"), ("stop", "stopped")):
            assert f'hx-post="/ui/studies/{study}/{verb}"' in client.get(f"/ui/studies/{study}").text
            done = client.post(f"/ui/studies/{study}/{verb}", headers=sent)
            assert (done.status_code, done.headers["hx-refresh"]) == (204, "true")
            assert f'class="state {state}"' in client.get(f"/ui/studies/{study}").text
        refused = client.post(f"/ui/studies/{study}/resume", headers=sent | {"HX-Request": "true"})
        assert refused.status_code == 409
        assert refused.headers["content-type"].startswith("text/plain")
        assert "stopped" in refused.text


HOSTILE = (
    "<script>alert(1)</script>", "\"><img src=x onerror=alert(1)>", "'><svg onload=alert(1)>", "{{7*7}}",
    "javascript:alert(1)", "</title><script>alert(1)</script>",
)  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_name_is_text_and_nothing_else(dashboard: Dashboard, person: httpx.Client, name: str):
    study = new_study(dashboard, f"hostile {HOSTILE.index(name)}")
    with (
        closing(sqlite3.connect(dashboard.home / "tunesmith.db")) as conn,
        conn,
    ):  # of before a name was looked at
        conn.execute("UPDATE studies SET name = ? WHERE id = ?", (name, study))
    for path in ("/ui/studies", f"/ui/studies/{study}", f"/ui/studies/{study}?stage={name}"):
        assert Unsafe(person.get(path).text).found == []
    assert f"<h1>{escape(name)}" in person.get(f"/ui/studies/{study}").text
