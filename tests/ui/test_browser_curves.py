"""The curves of a study in a real browser."""

from __future__ import annotations

from typing import Any

import pytest
from ui.conftest import Dashboard
from ui.visits import Visit


@pytest.fixture
def overview(visit: Visit, dashboard: Dashboard) -> Any:
    visit.page.goto(f"/ui/studies/{dashboard.study}")
    visit.page.locator("#curves").scroll_into_view_if_needed()
    return visit.page


def ends(page: Any, name: str) -> Any:
    """The last point of a drawn line."""
    return page.evaluate(
        """(name) => {
            const chart = echarts.getInstanceByDom(document.querySelector("#curves .chart"));
            return chart.getOption().series.find((s) => s.name === name).data.at(-1);
        }""",
        name,
    )


def test_a_pruned_trials_curve_ends_where_it_was_pruned_in_the_chart_the_list_and_the_table(
    overview: Any,
) -> None:
    """Browser test 12, on the page of the study."""
    from playwright.sync_api import expect

    expect(overview.locator("#curves[data-shown='18']")).to_be_visible()
    expect(overview.locator("#curves .keys")).to_contain_text("refine, pruned at 6")
    assert ends(overview, "#32")[0] == 6
    assert ends(overview, "#24")[0] == 20
    overview.locator("#curves summary").click()
    rows = overview.locator("#curves tbody tr", has_text="#32")
    expect(rows).to_have_count(6)


def test_how_many_curves_and_whether_training_is_shown_is_chosen(overview: Any) -> None:
    from playwright.sync_api import expect

    curves = overview.locator("#curves")
    expect(curves.locator(".keys li:not(.faded)")).to_have_count(11)
    expect(curves.locator(".said")).to_contain_text("Dotted lines are training.")
    curves.get_by_role("button", name="best 5").click()
    expect(curves.locator(".keys li:not(.faded)")).to_have_count(6)
    curves.get_by_role("button", name="training too").click()
    expect(curves.locator(".said")).not_to_contain_text("Dotted")
    curves.get_by_role("button", name="all", exact=True).click()
    expect(curves.locator(".keys li:not(.faded)")).to_have_count(27)
    curves.get_by_role("link", name="#24", exact=True).click()
    overview.wait_for_url("**/trials/24")


def test_trials_that_were_selected_in_explore_are_the_curves_that_are_shown(
    visit: Visit, dashboard: Dashboard
) -> None:
    from playwright.sync_api import expect

    page = visit.page
    page.goto(f"/ui/studies/{dashboard.study}/explore?filter=stage:refine")
    for number in (24, 27, 32):
        page.locator(f"[data-pick='{number}']").check()
    page.locator(".picked").get_by_role("link", name="Curves").click()
    page.wait_for_url("**?pick=*")
    curves = page.locator("#curves")
    curves.scroll_into_view_if_needed()
    expect(curves.locator(".keys li")).to_have_count(3)
    expect(curves.get_by_role("button", name="selected (3)")).to_have_attribute("aria-pressed", "true")
    expect(curves.locator(".keys")).to_contain_text("#32")
    other = curves.get_by_role("link", name="#29", exact=True)
    expect(other).to_have_count(0)
    curves.get_by_role("button", name="best 5").click()
    expect(other).to_be_visible()
    curves.get_by_role("button", name="selected (3)").click()
    expect(other).to_have_count(0)
    expect(curves.locator(".keys li")).to_have_count(3)
