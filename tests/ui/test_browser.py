"""The dashboard in a real browser: what a person would notice, and what must not happen behind them."""

from __future__ import annotations

import asyncio
import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from light import LightWorker
from ui.conftest import Dashboard
from ui.visits import Visit, visiting

HOSTILE = "<img src=x onerror=document.title='owned'>"


def light_study(dashboard: Dashboard, name: str, epochs: int = 3) -> int:
    study = {
        "name": name, "task": "light", "space": {"lr": [0.1, 0.2]},
        "stages": [{"kind": "coarse_grid", "name": "grid", "epochs": epochs}],
    }  # fmt: skip
    made = int(dashboard.api("POST", "/studies", json=study).json()["id"])
    dashboard.api("POST", f"/studies/{made}/trials", json={"params": [{"lr": 0.1}], "stage": "grid"})
    return made


def worker(dashboard: Dashboard) -> LightWorker:
    return LightWorker(dashboard.url, (dashboard.home / "worker.token").read_text().strip())


def test_the_login_link_opens_the_dashboard_and_leaves_no_code_behind(visit: Visit, dashboard: Dashboard):
    from playwright.sync_api import expect

    expect(visit.page.get_by_role("heading", name="Studies")).to_be_visible()
    visit.page.go_back()
    assert "code" not in visit.page.url
    visit.page.wait_for_url("**/ui/studies")  # by itself, for this browser is logged in
    visit.page.get_by_role("link", name="cifar-mini-resnet").click()
    expect(visit.page.get_by_role("heading", level=1)).to_contain_text("cifar-mini-resnet")
    expect(visit.page.get_by_role("status")).to_have_text("live")
    expect(visit.page.locator("#curves .keys li:not(.faded)")).to_have_count(11)
    visit.page.get_by_role("button", name="val/accuracy").click()
    expect(visit.page.get_by_role("button", name="val/accuracy")).to_have_attribute("aria-pressed", "true")
    visit.page.get_by_role("link", name="failed 1").click()
    expect(visit.page.locator("#rows tr")).to_have_count(1)
    visit.page.locator("#rows a").click()
    expect(visit.page.get_by_text("mat1 and mat2 shapes cannot be multiplied").first).to_be_visible()


def test_a_fresh_install_shows_how_to_start_and_then_the_study_by_itself(chromium: Any, tmp_path: Path):
    from playwright.sync_api import expect

    fresh = Dashboard(tmp_path, empty=True)
    try:
        with visiting(fresh, chromium) as visit:
            expect(visit.page.get_by_text("tunesmith study create -f digits-demo")).to_be_visible()
            for name in ("first of all", "second to come"):
                light_study(fresh, name)
                expect(visit.page.get_by_role("link", name=name)).to_be_visible()
    finally:
        fresh.process.kill()


def test_the_link_works_in_a_tab_that_shows_the_login_page(visit: Visit, dashboard: Dashboard):
    visit.page.goto("/ui/settings")  # by itself it asks nothing, which would be refused
    visit.page.context.clear_cookies()
    visit.page.goto("/ui/studies")
    assert visit.page.url.endswith("/ui/login")
    visit.page.goto(dashboard.login_link())
    visit.page.wait_for_url("**/ui/studies")


def test_a_study_grows_without_a_reload(visit: Visit, dashboard: Dashboard):
    from playwright.sync_api import expect

    study = light_study(dashboard, "watched live")
    visit.page.goto(f"/ui/studies/{study}")
    row = visit.page.locator("#rows tr").first
    expect(row).to_contain_text("waiting")
    expect(visit.page.get_by_text("Nothing reported yet.")).to_be_visible()
    expect(visit.page.get_by_role("status")).to_have_text("live")
    visit.page.evaluate("() => { document.body.dataset.same = 'page' }")

    async def train() -> None:
        light = worker(dashboard)
        await light.register()
        assert await light.run_one()
        await light.client.aclose()

    with ThreadPoolExecutor(1) as aside:  # Playwright's own loop runs in this thread
        aside.submit(asyncio.run, train()).result()
    expect(row).to_contain_text("complete")
    expect(visit.page.locator("#curves .keys li")).to_have_count(1)
    expect(visit.page.get_by_role("region", name="Best trial")).to_contain_text("0.2500")
    expect(visit.page.locator(".pipeline")).to_contain_text("1 complete")
    assert visit.page.evaluate("() => document.body.dataset.same") == "page"


def test_stopping_asks_first(visit: Visit, dashboard: Dashboard):
    from playwright.sync_api import expect

    study = light_study(dashboard, "stopped by hand")
    visit.page.goto(f"/ui/studies/{study}")
    visit.page.get_by_role("button", name="Stop…").click()
    question = visit.page.get_by_role("dialog", name="Stop this study for good?")
    expect(question).to_contain_text("run (0) or wait (1)")
    question.get_by_role("button", name="Keep it as it is").click()
    expect(question).to_be_hidden()
    visit.page.get_by_role("button", name="Stop…").click()
    question.get_by_role("button", name="Stop", exact=True).click()
    expect(visit.page.get_by_role("heading", level=1)).to_contain_text("stopped")
    expect(visit.page.get_by_role("button", name="Stop…")).to_have_count(0)


def test_a_hostile_name_runs_no_script(visit: Visit, dashboard: Dashboard):
    study = light_study(dashboard, HOSTILE)
    for path in ("/ui/studies", f"/ui/studies/{study}", f"/ui/studies/{study}/trials/0"):
        visit.page.goto(path)
        visit.page.get_by_text(HOSTILE).first.wait_for()
        assert visit.page.title() != "owned"


def test_logging_out_leads_to_the_login_page(visit: Visit):
    from playwright.sync_api import expect

    visit.page.goto("/ui/settings")  # by itself it asks nothing, which would be refused
    visit.page.get_by_role("button", name="Log out", exact=True).click()
    expect(visit.page.get_by_role("heading", name="Log in")).to_be_visible()
    visit.page.goto("/ui/studies")
    assert visit.page.url.endswith("/ui/login")


def test_a_page_left_open_leads_to_the_login_page_when_its_session_ends(visit: Visit, dashboard: Dashboard):
    visit.page.goto(f"/ui/studies/{dashboard.study}")
    other = visit.page.context.new_page()
    other.goto("/ui/studies")
    other.get_by_role("button", name="Log out").click()
    visit.page.wait_for_url("**/ui/login?to=*")
    visit.wrong[:] = [w for w in visit.wrong if "401" not in w]  # the browser notes the refusals


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_phone_shows_every_page_without_scrolling_sideways(visit: Visit, dashboard: Dashboard, scheme: str):
    visit.page.set_viewport_size({"width": 390, "height": 844})
    visit.page.emulate_media(color_scheme=scheme)
    for path in ("/ui/studies", f"/ui/studies/{dashboard.study}", f"/ui/studies/{dashboard.study}/trials/33"):
        visit.page.goto(path)
        assert visit.page.evaluate("() => document.documentElement.scrollWidth") == 390
    back = visit.page.evaluate("() => getComputedStyle(document.body).backgroundColor")
    assert sum(int(n) for n in re.findall(r"\d+", back)[:3]) < 200 if scheme == "dark" else "247" in back
