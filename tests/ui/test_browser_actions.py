"""What people do with studies and trials, in a real browser."""

from __future__ import annotations

from typing import Any

from ui.conftest import Dashboard
from ui.visits import Visit, visiting


def study_of(dashboard: Dashboard, name: str) -> int:
    study = {
        "name": name, "task": "light", "space": {"lr": [0.1, 0.2]},
        "stages": [{"kind": "coarse_grid", "name": "grid", "epochs": 3}],
    }  # fmt: skip
    made = int(dashboard.api("POST", "/studies", json=study).json()["id"])
    dashboard.api("POST", f"/studies/{made}/trials", json={"params": [{"lr": 0.1}], "stage": "grid"})
    return made


def test_a_failed_trial_is_tried_again_and_both_pages_link_each_other(visit: Visit, dashboard: Dashboard):
    """Browser test 10."""
    from playwright.sync_api import expect

    page = visit.page
    page.goto(f"/ui/studies/{dashboard.study}?state=failed")
    page.locator("#rows a").first.click()
    expect(page.get_by_text("mat1 and mat2 shapes cannot be multiplied").first).to_be_visible()
    expect(page.get_by_text("Traceback (most recent call last)").first).to_be_visible()
    page.wait_for_load_state()
    old = page.url
    page.get_by_role("button", name="Try again…").click()
    page.get_by_role("dialog").get_by_role("button", name="Try again", exact=True).click()
    page.get_by_role("heading", level=1).filter(has_text="waiting").wait_for()
    assert page.url != old
    page.get_by_role("link", name="#33").click()
    page.wait_for_url(old)
    expect(page.get_by_text("tried again as").get_by_role("link")).to_have_count(1)
    new = page.get_by_text("tried again as").get_by_role("link").inner_text()
    page.get_by_text("tried again as").get_by_role("link").click()
    expect(page.get_by_role("heading", level=1)).to_contain_text(new)
    dashboard.api("POST", f"/studies/{dashboard.study}/trials/{new[1:]}/cancel")


def test_pause_resume_and_stop_ask_first_and_a_viewer_sees_no_buttons(
    visit: Visit, dashboard: Dashboard, chromium: Any
):
    """Browser test 18."""
    from playwright.sync_api import expect

    study = study_of(dashboard, "to be stopped in a browser")
    page = visit.page
    page.goto(f"/ui/studies/{study}")
    for verb, state in (("Pause", "paused"), ("Resume", "active"), ("Stop", "stopped")):
        page.get_by_role("button", name=f"{verb}…").click()
        with page.expect_event("load"):  # what follows is meant for the page that was loaded anew
            page.get_by_role("dialog").get_by_role("button", name=verb, exact=True).click()
        expect(page.get_by_role("heading", level=1)).to_contain_text(state)
    expect(page.get_by_role("button", name="Archive…")).to_be_visible()
    with visiting(dashboard, chromium, dashboard.token("viewer")) as seen:
        seen.page.goto(f"/ui/studies/{study}")
        expect(seen.page.get_by_role("heading", level=1)).to_contain_text("stopped")
        expect(seen.page.locator("[popovertarget]")).to_have_count(0)
        word = "JSON.parse(document.body.getAttribute('hx-headers'))"
        status = seen.page.evaluate(
            f"fetch('/ui/studies/{study}/stop', {{method: 'POST', headers: {word}}}).then(r => r.status)"
        )
        assert status == 403
        seen.wrong[:] = [w for w in seen.wrong if "403" not in w]


def test_a_study_is_deleted_only_by_its_name(visit: Visit, dashboard: Dashboard):
    from playwright.sync_api import expect

    study = study_of(dashboard, "to be deleted in a browser")
    dashboard.api("POST", f"/studies/{study}/stop")
    page = visit.page
    page.goto(f"/ui/studies/{study}")
    page.get_by_role("button", name="Delete…").click()
    page.get_by_label("Its name, to be sure").fill("another")
    page.get_by_role("button", name="Delete", exact=True).click()
    expect(page.get_by_role("alert")).to_contain_text("give exactly its name")
    page.get_by_label("Its name, to be sure").fill("to be deleted in a browser")
    visit.forgive(404, f"/ui/studies/{study}/")  # the open page asks for its parts until it is left
    page.get_by_role("button", name="Delete", exact=True).click()
    page.wait_for_url("**/ui/studies")
    expect(page.get_by_role("link", name="to be deleted in a browser")).to_have_count(0)
    visit.wrong[:] = [w for w in visit.wrong if "422" not in w]


def test_the_second_of_two_who_edit_a_note_is_told_and_puts_both_together(
    visit: Visit, dashboard: Dashboard, chromium: Any
):
    """Browser test 29."""
    from playwright.sync_api import expect

    study = study_of(dashboard, "edited by two in browsers")
    with visiting(dashboard, chromium) as other:
        for page in (visit.page, other.page):
            page.goto(f"/ui/studies/{study}")
            page.get_by_role("link", name="notes", exact=True).click()
            expect(page.get_by_label("Write")).to_have_value("")
        visit.page.get_by_label("Write").fill("mine: lr 0.1 is too high\nsee https://example.org/lr")
        visit.page.get_by_role("button", name="Save").click()
        expect(visit.page.get_by_text("saved", exact=True)).to_be_visible()
        expect(visit.page.get_by_role("link", name="https://example.org/lr")).to_be_visible()
        other.page.get_by_label("Write").fill("theirs: try 0.05")
        other.page.get_by_role("button", name="Save").click()
        expect(other.page.get_by_role("alert").filter(has_text="Changed since")).to_be_visible()
        expect(other.page.locator(".written")).to_contain_text("lr 0.1 is too high")
        box = other.page.get_by_label("Yours, to be put together")
        expect(box).to_have_value("theirs: try 0.05")
        box.fill("mine: lr 0.1 is too high\ntheirs: try 0.05")
        other.page.get_by_role("button", name="Save").click()
        expect(other.page.locator(".written")).to_have_text("mine: lr 0.1 is too high\ntheirs: try 0.05")
    note = dashboard.api("GET", f"/studies/{study}/note").json()["text"]
    assert note == "mine: lr 0.1 is too high\ntheirs: try 0.05"


def test_the_list_of_studies_is_searched_and_ordered_and_back_restores_it(visit: Visit, dashboard: Dashboard):
    """Browser test 2."""
    from playwright.sync_api import expect

    study_of(dashboard, "findable one")
    page = visit.page
    page.goto("/ui/studies")
    row = page.locator("#studies tr").filter(has_text="cifar-mini-resnet")
    expect(row).to_contain_text("0.3")
    expect(row).to_contain_text("refine")
    page.get_by_label("Order").select_option("best value")
    page.get_by_role("button", name="Show").click()
    expect(page.locator("#studies tr").first).to_contain_text("cifar-mini-resnet")
    page.get_by_label("Name").fill("findable")
    page.get_by_label("Name").press("Enter")
    expect(page.locator("#studies tr")).to_have_count(1)
    page.get_by_role("link", name="findable one").click()
    expect(page.get_by_role("heading", level=1)).to_contain_text("findable one")
    page.go_back()
    expect(page.get_by_label("Name")).to_have_value("findable")
    expect(page.locator("#studies tr")).to_have_count(1)
