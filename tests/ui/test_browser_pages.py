"""The form, the fleet, the settings and the interface's description, as people use them in a browser."""

from __future__ import annotations

from ui.conftest import Dashboard
from ui.visits import Visit


def test_create_a_study_from_the_form_where_a_bad_range_is_told_beside_its_field(
    visit: Visit, dashboard: Dashboard
):
    """Browser test 3."""
    from playwright.sync_api import expect

    page = visit.page
    page.get_by_role("link", name="New study").click()
    page.get_by_label("Name", exact=True).fill("typed-by-hand")
    page.get_by_label("Task").fill("images")
    first = page.get_by_role("group", name="Hyperparameter that varies, row 1")
    first.get_by_label("low").fill("5")
    page.get_by_role("button", name="Add a hyperparameter").click()
    row = page.get_by_role("group", name="Hyperparameter that varies, row 4")
    expect(row.get_by_label("name")).to_be_focused()
    row.get_by_label("name").fill("optimizer")
    row.get_by_label("kind").select_option("choice")
    expect(row.get_by_label("low")).to_be_hidden()
    row.get_by_label("values").fill("momentum, adam")
    page.get_by_role("button", name="Look at the cost").click()
    low = page.get_by_role("group", name="Hyperparameter that varies, row 1").get_by_label("low")
    expect(low).to_be_focused()
    expect(low).to_have_attribute("aria-invalid", "true")
    expect(low).to_have_accessible_description("Low must not be above high, got low=5, high=1")
    expect(page.get_by_label("Name", exact=True)).to_have_value("typed-by-hand")
    expect(page.locator("[name='space.3.values']")).to_have_value("momentum, adam")
    visit.wrong.clear()  # the browser itself notes an answer of 422
    low.fill("1e-4")
    page.get_by_role("button", name="Look at the cost").click()
    expect(page.get_by_role("heading", name="What it costs at most")).to_be_focused()
    expect(page.get_by_role("row", name="all")).to_be_visible()
    page.get_by_role("button", name="Create").click()
    expect(page.get_by_role("heading", level=1)).to_contain_text("typed-by-hand")
    made = dashboard.api("GET", "/studies/typed-by-hand").json()
    assert made["task"] == "images"


def test_the_workers_page_joins_a_machine_and_drains_one_after_asking(visit: Visit, dashboard: Dashboard):
    """Browser test 27."""
    from playwright.sync_api import expect

    page = visit.page
    page.get_by_role("navigation", name="Pages").get_by_role("link", name="Workers").click()
    row = page.get_by_role("row").filter(has_text="gpu-a")
    expect(row).to_contain_text("away")
    expect(page.locator("#timeline")).to_have_attribute("data-shown", "36")
    page.get_by_role("button", name="Make a token and show the commands").click()
    expect(page.locator("#join-commands")).to_contain_text(f"tunesmith worker --url {dashboard.url}")
    page.get_by_role("button", name="Drain gpu-a", exact=True).click()
    with page.expect_event("load"):  # what follows is meant for the page that was loaded anew
        page.get_by_role("dialog").get_by_role("button", name="Drain", exact=True).click()
    page.get_by_role("button", name="Undrain gpu-a").click()
    page.get_by_role("dialog").get_by_role("button", name="Undrain", exact=True).click()
    expect(page.get_by_role("button", name="Drain gpu-a", exact=True)).to_be_visible()
