"""Explore in a real browser: filter, brush, table and address say the same."""

from __future__ import annotations

import re
from typing import Any

import pytest
from ui.conftest import Dashboard
from ui.visits import Visit, visiting


@pytest.fixture
def explore(visit: Visit, dashboard: Dashboard) -> Any:
    visit.page.goto(f"/ui/studies/{dashboard.study}/explore")
    return visit.page


def drawn(page: Any, chart: str) -> Any:
    return page.locator(f"[data-chart={chart}]:not([data-shown='0'])[data-shown]")


def total(page: Any) -> Any:
    return page.locator("#trials [data-total]")


def brush(page: Any, axis: int, low: float, high: float) -> None:
    """Drag along an axis of the parallel chart from one share of its height to another."""
    box = page.locator("[data-chart=parallel] canvas").bounding_box()
    axes = page.evaluate("""() => {
        const chart = echarts.getInstanceByDom(document.querySelector("[data-chart=parallel] .chart"));
        return chart.getModel().getComponent("parallel").coordinateSystem._axesLayout;
    }""")
    layout = list(axes.values())[axis]
    x = box["x"] + layout["position"][0]
    top, bottom = box["y"] + 42, box["y"] + box["height"] - 20
    page.mouse.move(x, bottom - low * (bottom - top))
    page.mouse.down()
    page.mouse.move(x, bottom - high * (bottom - top))  # at once: what has rested for a moment is applied
    page.mouse.up()


def test_brushing_the_objective_filters_table_slices_and_text_alike(explore: Any) -> None:
    """Browser test 8."""
    from playwright.sync_api import expect

    expect(drawn(explore, "parallel")).to_be_visible()
    expect(total(explore)).to_have_text("36 picked of 36")
    brush(explore, 3, 0.0, 0.2)
    expect(explore.locator("#filter")).to_have_value(re.compile(r"^val_loss:[\d.]+\.\.[\d.]+$"))
    expect(total(explore)).not_to_have_text("36 picked of 36")
    picked = int(total(explore).get_attribute("data-total"))
    rows = explore.locator("#rows tr")
    expect(rows).to_have_count(picked)
    slices = explore.locator("[data-chart=slices]")
    expect(slices).to_have_attribute("data-shown", str(picked))
    expect(explore.locator("[data-chart=parallel] .said")).to_contain_text(f"{picked} of 26 trials picked")
    explore.get_by_role("button", name="Clear").click()
    expect(total(explore)).to_have_text("36 picked of 36")
    expect(explore.locator("#filter")).to_have_value("")


def test_typing_a_range_does_what_brushing_does(explore: Any) -> None:
    """Browser test 8, without a mouse."""
    from playwright.sync_api import expect

    explore.get_by_text("ranges as numbers").click()
    explore.get_by_label("val_loss to").fill("0.42")
    explore.get_by_label("val_loss to").press("Enter")
    expect(explore.locator("#filter")).to_have_value("val_loss:..0.42")
    expect(total(explore)).to_have_text("3 picked of 36")
    explore.locator("#filter").fill("val_loss<0.42 lr>=0.01")
    explore.get_by_role("button", name="Pick").click()
    expect(total(explore)).to_have_text("2 picked of 36")


def test_a_filter_that_is_entered_is_asked_once(explore: Any) -> None:
    from playwright.sync_api import expect

    asked: list[str] = []
    expect(drawn(explore, "slices")).to_be_visible()
    explore.on("request", lambda r: asked.append(r.url.partition("/studies/")[2].partition("/")[2]))
    with explore.expect_response("**/views/slices?filter=*"):  # charts ask one after another, this one last
        explore.locator("#filter").fill("stage:refine")
        explore.locator("#filter").press("Enter")
    expect(total(explore)).to_have_text("12 picked of 36")
    views = ["parts/explored", "views/parallel", "views/slices"]
    assert sorted(a for a in asked if "filter" in a) == [f"{name}?filter=stage%3Arefine" for name in views]


def test_a_filter_that_cannot_be_read_is_told_beside_it_and_kept(explore: Any) -> None:
    from playwright.sync_api import expect

    explore.locator("#filter").fill("lrr>1")
    explore.get_by_role("button", name="Pick").click()
    expect(explore.get_by_role("alert").filter(has_text="did you mean lr?")).to_be_visible()
    expect(explore.locator("#filter")).to_have_value("lrr>1")
    explore.locator("#filter").fill("lr>=0.1")
    explore.get_by_role("button", name="Pick").click()
    expect(total(explore)).to_have_text("12 picked of 36")


def test_chips_put_their_term_into_the_filter_and_take_it_out(explore: Any) -> None:
    from playwright.sync_api import expect

    chip = explore.get_by_role("button", name="failed 1")
    chip.click()
    expect(explore.locator("#filter")).to_have_value("state:failed")
    expect(explore.locator("#rows tr")).to_have_count(1)
    chip.click()
    expect(explore.locator("#filter")).to_have_value("")


def test_a_copied_address_shows_the_same_to_somebody_else(
    explore: Any, dashboard: Dashboard, chromium: Any
) -> None:
    """Browser test 9."""
    from playwright.sync_api import expect

    explore.locator("#filter").fill("stage:refine state:complete")
    explore.get_by_role("button", name="Pick").click()
    expect(total(explore)).to_have_text("8 picked of 36")
    explore.get_by_role("link", name="lr", exact=True).click()
    expect(explore.get_by_role("columnheader", name="lr")).to_have_attribute("aria-sort", "ascending")
    explore.get_by_text("columns", exact=True).click()
    explore.get_by_label("val/accuracy").check()
    expect(explore.get_by_role("columnheader", name="val/accuracy")).to_be_visible()
    shown = explore.locator("#rows").inner_text()
    with visiting(dashboard, chromium) as other:
        other.page.goto(f"{explore.url}&theme=dark")
        expect(other.page.locator("#filter")).to_have_value("stage:refine state:complete")
        expect(other.page.locator("#rows")).to_have_text(shown, use_inner_text=True)
        expect(other.page.locator("html")).to_have_attribute("data-theme", "dark")
        expect(other.page.get_by_role("columnheader", name="lr")).to_have_attribute("aria-sort", "ascending")


def test_differences_only_hides_what_is_the_same_in_all_rows(explore: Any) -> None:
    from playwright.sync_api import expect

    explore.locator("#filter").fill("stage:refine state:complete")
    explore.get_by_role("button", name="Pick").click()
    expect(explore.get_by_role("columnheader", name="optimizer")).to_be_visible()
    explore.get_by_label("differences only").check()
    expect(explore.get_by_role("columnheader", name="optimizer")).to_have_count(0)
    expect(explore.get_by_role("columnheader", name="weight_decay")).to_be_visible()


def test_the_map_shows_layers_and_leads_to_the_trial(visit: Visit, dashboard: Dashboard) -> None:
    """Browser test 6."""
    from playwright.sync_api import expect

    page = visit.page
    page.goto(f"/ui/studies/{dashboard.study}")
    card = page.locator("[data-chart=map]")
    card.scroll_into_view_if_needed()
    expect(card).to_have_attribute("data-shown", "20")
    refine = card.get_by_role("button", name="refine")
    expect(refine).to_have_attribute("aria-pressed", "true")
    refine.click()
    expect(refine).to_have_attribute("aria-pressed", "false")
    refine.click()
    card.get_by_text("Show data").click()
    expect(card.locator("tbody tr")).to_have_count(20)
    expect(card.locator("tbody tr").filter(has_text="#24")).to_contain_text("0.005")
    at = page.evaluate("""() => {
        const dom = document.querySelector("[data-chart=map] .chart");
        const chart = echarts.getInstanceByDom(dom);
        const series = chart.getOption().series.findIndex((s) => s.name === "refine");
        const datum = chart.getOption().series[series].data.find((d) => d.value[2] === 24);
        return chart.convertToPixel({ seriesIndex: series }, datum.value.slice(0, 2));
    }""")
    canvas = card.locator("canvas")
    canvas.click(position={"x": at[0], "y": at[1]})
    page.wait_for_url("**/trials/24")
