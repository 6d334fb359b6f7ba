"""A session that ends while its page is open, the way back to where one was, and reports of violations."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from processes import until
from ui.conftest import Dashboard
from ui.visits import Visit, visiting


@pytest.fixture
def token(dashboard: Dashboard) -> str:
    """One whose sessions a test may end."""
    return dashboard.token("researcher")


@pytest.fixture
def own(dashboard: Dashboard, chromium: Any, token: str) -> Iterator[Visit]:
    with visiting(dashboard, chromium, token) as found:
        yield found
        found.wrong[:] = [w for w in found.wrong if "401" not in w]  # the browser notes each refusal


def end(dashboard: Dashboard, token: str) -> None:
    dashboard.api("DELETE", "/sessions", token=token)


def code(dashboard: Dashboard, token: str) -> str:
    return dashboard.login_link(token).partition("code=")[2]


@pytest.mark.parametrize(
    "path", ["/ui/studies", "/ui/studies/{study}?state=complete&order=best", "/ui/workers"]
)
def test_an_open_page_leads_to_the_login_page_and_from_there_back(
    own: Visit, dashboard: Dashboard, token: str, path: str
):
    page, here = own.page, path.format(study=dashboard.study)
    page.goto(here)
    end(dashboard, token)
    page.wait_for_url("**/ui/login?*")
    page.get_by_label("One-time code").fill(code(dashboard, token))
    page.get_by_role("button", name="Open the dashboard").click()
    page.wait_for_url(lambda url: url == dashboard.url + here)


def test_a_page_that_asks_nothing_by_itself_leads_there_when_something_is_pressed(
    own: Visit, dashboard: Dashboard, token: str
):
    page = own.page
    page.goto("/ui/settings")
    end(dashboard, token)
    page.get_by_role("button", name="End the session of").click()
    page.wait_for_url("**/ui/login?to=settings")


def test_a_page_that_is_looked_at_again_leads_there(own: Visit, dashboard: Dashboard, token: str):
    page = own.page
    page.goto("/ui/docs")
    end(dashboard, token)
    page.evaluate("document.dispatchEvent(new Event('visibilitychange'))")
    page.wait_for_url("**/ui/login?to=docs")


def test_what_somebody_has_written_is_not_lost(own: Visit, dashboard: Dashboard, token: str):
    from playwright.sync_api import expect

    page = own.page
    page.goto(f"/ui/studies/{dashboard.study}/notes")
    expect(page.get_by_role("status").first).to_have_text("live")
    page.get_by_label("Write").fill("an hour of thinking")
    end(dashboard, token)
    expect(page.get_by_role("alert")).to_contain_text(
        "Your session has ended. What you have written is still here"
    )
    expect(page.get_by_label("Write")).to_have_value("an hour of thinking")
    page.get_by_role("button", name="Save").click()
    expect(page.get_by_label("Write")).to_have_value("an hour of thinking")
    page.get_by_role("alert").get_by_role("link", name="log in").click()
    page.wait_for_url(f"**/ui/login?to=studies*{dashboard.study}*notes")


def test_a_tab_that_shows_the_login_page_goes_on_once_another_has_logged_in(
    own: Visit, dashboard: Dashboard, token: str
):
    page = own.page
    end(dashboard, token)
    page.goto(f"/ui/studies/{dashboard.study}/events")
    page.wait_for_url("**/ui/login?*")
    other = page.context.new_page()
    other.goto(dashboard.login_link(token))
    other.wait_for_url("**/ui/studies")
    page.evaluate("document.dispatchEvent(new Event('visibilitychange'))")
    page.wait_for_url(f"**/ui/studies/{dashboard.study}/events")


def test_a_link_on_another_site_leads_to_its_page_for_who_is_logged_in(own: Visit, dashboard: Dashboard):
    """The cookie is not sent along from elsewhere (SameSite=Strict): the login page finds it."""
    page, there = own.page, f"{dashboard.url}/ui/studies/{dashboard.study}/events?kind=stage"
    html = f'<a href="{there}">look at this</a>'
    page.route("http://chat.example/", lambda route: route.fulfill(body=html, content_type="text/html"))
    page.goto("http://chat.example/")
    page.get_by_role("link", name="look at this").click()
    page.wait_for_url(lambda url: url == there)
    own.wrong[:] = [w for w in own.wrong if "chat.example" not in w]


def test_somebody_elses_link_logs_nobody_in_as_another_without_a_word(own: Visit, dashboard: Dashboard):
    from playwright.sync_api import expect

    page = own.page
    page.goto(dashboard.login_link(dashboard.token("viewer")))
    expect(page.get_by_role("status")).to_contain_text("You are here already, as a researcher.")
    assert "code" not in page.url
    page.get_by_role("link", name="Go on").click()
    page.wait_for_url("**/ui/studies")
    expect(page.get_by_role("banner")).to_contain_text("a researcher")
    page.goto(dashboard.login_link(dashboard.token("viewer")))
    page.get_by_role("button", name="Open the dashboard").click()  # it is what they want, after all
    page.wait_for_url("**/ui/studies")
    expect(page.get_by_role("banner")).to_contain_text("a viewer")


def test_the_settings_end_another_browsers_session_and_then_all(
    own: Visit, dashboard: Dashboard, chromium: Any, token: str
):
    from playwright.sync_api import expect

    with visiting(dashboard, chromium, token) as other:
        other.page.goto(f"/ui/studies/{dashboard.study}")
        own.page.goto("/ui/settings")
        table = own.page.get_by_role("region", name="Where you are logged in").locator("tbody tr")
        expect(table).to_have_count(2)
        expect(table.filter(has_text="this one")).to_contain_text("headless Chrome on Linux")
        table.filter(has_not_text="this one").get_by_role("button").click()
        expect(table).to_have_count(1)
        other.page.wait_for_url("**/ui/login?*")
        other.wrong[:] = [w for w in other.wrong if "401" not in w]
    own.page.get_by_role("button", name="Log out everywhere…").click()
    own.page.get_by_role("dialog").get_by_role("button", name="Log out everywhere").click()
    own.page.wait_for_url("**/ui/login")


def test_what_goes_against_the_policy_is_told_to_the_service(own: Visit, dashboard: Dashboard):
    own.page.goto("/ui/settings?asked=privately")
    own.page.evaluate(
        "document.body.append(Object.assign(document.createElement('script'), {textContent: 'owned = 1'}))"
    )
    assert own.page.evaluate("typeof owned") == "undefined"
    until(lambda: "csp.violation" in dashboard.process.said, saw=lambda: dashboard.process.said[-3000:])
    (line,) = [x for x in dashboard.process.said.splitlines() if "csp.violation" in x]
    assert "script-src" in line
    assert f"{dashboard.url}/ui/settings" in line
    assert "privately" not in line
    own.wrong[:] = [w for w in own.wrong if "Content Security Policy" not in w]
