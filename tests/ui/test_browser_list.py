"""The list of studies in a browser: what a line says, and what can be done with it where it stands."""

from __future__ import annotations

from typing import Any

from ui.conftest import Dashboard
from ui.test_browser import light_study
from ui.visits import Visit, visiting


def line(page: Any, name: str) -> Any:
    return page.locator("#studies tr").filter(has=page.get_by_role("link", name=name, exact=True))


def menu_of(page: Any, name: str) -> Any:
    page.get_by_role("button", name=f"What can be done with {name}").click()
    return page.get_by_role("dialog", name=name)


def test_a_line_says_how_a_study_stands(visit: Visit):
    """Browser test 2."""
    from playwright.sync_api import expect

    cells = line(visit.page, "cifar-mini-resnet").locator("td")
    said = {2: "refine 2/2", 3: "#24", 4: "val/loss↓", 5: "26 / 7 / 1 /", 9: "first operator"}
    for i, words in said.items():
        expect(cells.nth(i)).to_contain_text(words)


def test_a_study_is_paused_archived_and_brought_back_from_its_line(visit: Visit, dashboard: Dashboard):
    from playwright.sync_api import expect

    study = light_study(dashboard, "handled in the list")
    page = visit.page
    page.goto("/ui/studies")
    for verb, word in (("Pause", "paused"), ("Resume", "active"), ("Stop", "stopped")):
        menu_of(page, "handled in the list").get_by_role("button", name=f"{verb}…").click()
        with page.expect_event("load"):  # what follows is meant for the page that was loaded anew
            page.get_by_role("dialog").get_by_role("button", name=verb, exact=True).click()
        expect(line(page, "handled in the list")).to_contain_text(word)
    menu_of(page, "handled in the list").get_by_role("button", name="Archive…").click()
    with page.expect_event("load"):
        page.get_by_role("button", name="Archive", exact=True).click()
    expect(page.locator(f"#study-{study}")).to_have_count(0)
    page.get_by_label("State").select_option("archived")
    with page.expect_event("load"):
        page.get_by_role("button", name="Show").click()
    menu_of(page, "handled in the list").get_by_role("button", name="Bring back…").click()
    with page.expect_event("load"):
        page.get_by_role("button", name="Bring back", exact=True).click()
    expect(page.get_by_text("No study like that.")).to_be_visible()
    page.get_by_role("link", name="all", exact=True).click()
    expect(line(page, "handled in the list")).to_contain_text("stopped")


def test_a_study_is_deleted_from_its_line_by_its_name_alone(visit: Visit, dashboard: Dashboard):
    from playwright.sync_api import expect

    study = light_study(dashboard, "deleted in the list")
    dashboard.api("POST", f"/studies/{study}/stop")
    page = visit.page
    page.goto("/ui/studies")
    menu_of(page, "deleted in the list").get_by_role("button", name="Delete…").click()
    page.get_by_label("Its name, to be sure").fill("deleted in the")
    page.get_by_role("button", name="Delete", exact=True).click()
    expect(page.get_by_role("alert")).to_contain_text("give exactly its name")
    page.get_by_label("Its name, to be sure").fill("deleted in the list")
    page.get_by_role("button", name="Delete", exact=True).click()
    expect(page.locator(f"#study-{study}")).to_have_count(0)
    visit.wrong[:] = [w for w in visit.wrong if "422" not in w]


def test_the_menu_opens_closes_and_leads_on_by_keyboard_and_stays_while_the_list_refreshes(
    visit: Visit, dashboard: Dashboard
):
    from playwright.sync_api import expect

    page = visit.page
    button = page.get_by_role("button", name="What can be done with cifar-mini-resnet")
    button.press("Enter")
    menu = page.get_by_role("dialog", name="cifar-mini-resnet")
    expect(menu.get_by_role("link", name="Open")).to_be_focused()
    clone = f"/ui/studies/new?clone={dashboard.study}"
    expect(menu.get_by_role("link", name="Clone")).to_have_attribute("href", clone)
    page.evaluate("() => document.body.dispatchEvent(new CustomEvent('live'))")
    page.keyboard.press("Escape")
    expect(menu).to_be_hidden()
    expect(button).to_be_focused()
    button.press("Enter")
    with page.expect_download() as saved:
        menu.get_by_role("link", name="Export its trials as CSV").click()
    assert len(saved.value.path().read_text().splitlines()) == 37
    menu.get_by_role("link", name="Open").click()
    expect(page.get_by_role("heading", level=1)).to_contain_text("cifar-mini-resnet")


def test_a_viewers_menu_has_links_alone(dashboard: Dashboard, chromium: Any):
    from playwright.sync_api import expect

    with visiting(dashboard, chromium, dashboard.token("viewer")) as seen:
        menu = menu_of(seen.page, "cifar-mini-resnet")
        expect(menu.get_by_role("link")).to_have_text(["Open", "Export its trials as CSV", "Report"])
        expect(menu.get_by_role("button")).to_have_count(0)
