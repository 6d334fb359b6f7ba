"""Browser test 26: behind nginx, below /lab/tunesmith/."""

from __future__ import annotations

import asyncio
import csv
import io
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from tunesmith_service.client import Client
from ui.browser.every_page import pages_of
from ui.browser.test_every_page import draw_all
from ui.conftest import csrf
from ui.proxied import PREFIX, Proxied
from ui.test_browser import light_study, worker
from ui.visits import Visit, visiting

LINKS = """() => {
  const names = ["href", "src", "action", "hx-get", "hx-post"].concat(
    ["url", "stream", "curves", "compare"].map(word => `data-${word}`));
  return names.flatMap(name => [...document.querySelectorAll(`[${name}]`)].map(e => e.getAttribute(name)))
    .filter(link => !link.startsWith("#") && !link.startsWith("?"));
}"""


@pytest.fixture(scope="module")
def proxied(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Proxied]:
    served = Proxied(tmp_path_factory.mktemp("proxied"))
    yield served
    served.process.kill()
    served.nginx.kill()


@pytest.fixture
def seen(proxied: Proxied, chromium: Any) -> Iterator[Visit]:
    """A visit through the proxy: each request that leaves the prefix, and each refusal, is wrong."""
    with visiting(proxied, chromium) as found:
        found.page.on("response", lambda r: found.note(f"{r.url}: {r.status}") if r.status >= 400 else None)
        yield found


def test_every_page_and_all_it_asks_for_lives_below_the_prefix(proxied: Proxied, seen: Visit):
    addresses = pages_of(proxied)
    assert f"/ui/studies/{proxied.study}/trials/9" in addresses
    for address in addresses:
        seen.page.goto(f"{proxied.url}{address}")
        links = seen.page.evaluate(LINKS)
        assert len(links) > 5, address
        strays = [link for link in links if not link.startswith(f"{PREFIX}/ui/")]
        assert not strays, (address, strays)
        draw_all(seen.page)
        assert not seen.wrong, (address, seen.wrong)


def test_the_root_leads_to_the_list_and_the_cookie_is_for_our_pages_alone(proxied: Proxied, seen: Visit):
    for start in ("", "/", "/ui", "/ui/"):
        seen.page.goto(f"{proxied.url}{start}")
        assert seen.page.url == f"{proxied.url}/ui/studies"
    (cookie,) = seen.page.context.cookies()
    assert (cookie["path"], cookie["httpOnly"], cookie["sameSite"]) == (f"{PREFIX}/ui", True, "Strict")


def test_changes_reach_the_page_by_its_stream_and_buttons_lead_on(proxied: Proxied, seen: Visit):
    from playwright.sync_api import expect

    study = light_study(proxied, "behind a proxy")
    page = seen.page
    page.goto(f"{proxied.url}/ui/studies/{study}")
    expect(page.get_by_role("status")).to_have_text("live")

    async def train() -> None:
        light = worker(proxied)  # through the proxy as well
        await light.register()
        assert await light.run_one()
        await light.client.aclose()

    with ThreadPoolExecutor(1) as aside:
        aside.submit(asyncio.run, train()).result()
    expect(page.locator("#rows tr").first).to_contain_text("complete")
    page.get_by_role("button", name="Stop…").click()
    with page.expect_event("load"):
        page.get_by_role("dialog").get_by_role("button", name="Stop", exact=True).click()
    expect(page.get_by_role("heading", level=1)).to_contain_text("stopped")
    page.get_by_role("button", name="Delete…").click()
    page.get_by_label("Its name, to be sure").fill("behind a proxy")
    seen.forgive(404, f"/ui/studies/{study}/")  # the open page asks for its parts until it is left
    page.get_by_role("button", name="Delete", exact=True).click()
    page.wait_for_url(f"{proxied.url}/ui/studies")


def test_a_study_is_created_from_the_form(proxied: Proxied, seen: Visit):
    from playwright.sync_api import expect

    page = seen.page
    page.get_by_role("link", name="New study").click()
    page.get_by_label("Name", exact=True).fill("created through a proxy")
    page.get_by_label("Task").fill("images")
    page.get_by_role("button", name="Look at the cost").click()
    expect(page.get_by_role("heading", name="What it costs at most")).to_be_focused()
    page.get_by_role("button", name="Create").click()
    expect(page.get_by_role("heading", level=1)).to_contain_text("created through a proxy")
    assert page.url.startswith(f"{proxied.url}/ui/studies/")


def test_filters_and_rows_lead_on(proxied: Proxied, seen: Visit):
    page = seen.page
    page.goto(f"{proxied.url}/ui/studies/{proxied.study}")
    page.get_by_role("link", name="failed 1").click()
    page.locator("#rows a").first.click()
    page.wait_for_url(f"{proxied.url}/ui/studies/{proxied.study}/trials/*")


def test_files_are_downloaded_as_without_a_proxy(proxied: Proxied, seen: Visit):
    page = seen.page
    page.goto(f"{proxied.url}/ui/studies/{proxied.study}/explore")
    with page.expect_download() as saved:
        page.get_by_role("link", name="CSV").click()
    rows = list(csv.DictReader(io.StringIO(saved.value.path().read_text())))
    assert len(rows) == 36
    page.goto(f"{proxied.url}/ui/studies/{proxied.study}")
    with page.expect_download() as saved:
        page.get_by_role("link", name="Report").click()
    assert "cifar-mini-resnet" in saved.value.path().read_text()


def test_logging_out_leads_to_the_login_page_and_the_link_back_in(proxied: Proxied, seen: Visit):
    seen.page.goto(f"{proxied.url}/ui/settings")  # by itself it asks nothing, which would be refused
    seen.page.get_by_role("button", name="Log out", exact=True).click()
    seen.page.wait_for_url(f"{proxied.url}/ui/login")
    assert seen.page.context.cookies() == []
    seen.page.goto(proxied.login_link())
    seen.page.wait_for_url(f"{proxied.url}/ui/studies")


def test_programs_reach_the_interface_through_the_proxy_and_past_it(proxied: Proxied):
    for url in (proxied.url, f"http://127.0.0.1:{proxied.port}", f"http://127.0.0.1:{proxied.port}{PREFIX}"):
        with Client(url, proxied.operator) as client:
            names = [s["name"] for s in client.pages("studies")]
        assert "cifar-mini-resnet" in names


def test_a_page_of_another_path_of_the_host_may_not_write_without_our_word(proxied: Proxied):
    """The origin is shared with whatever else the proxy serves, so that it proves nothing by itself."""
    with proxied.login() as person:
        path = f"/ui/studies/{proxied.study}/pause"
        assert person.post(path).status_code == 403
        assert proxied.ask("POST", path, headers={"Origin": proxied.origin}).status_code == 401
        word = csrf(person.get(f"/ui/studies/{proxied.study}").text)
        other = {"Origin": "http://elsewhere.example", "Tunesmith-CSRF": word}
        assert person.post(path, headers=other).status_code == 403
