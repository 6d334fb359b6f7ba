"""What marks of charts say to who points at them, and how they are kept; questions that make no sense."""

from __future__ import annotations

import re
from typing import Any

import httpx
import pytest
from processes import until
from tunesmith_service.charts import CHARTS
from tunesmith_service.filters import MOST_CHARACTERS
from ui.conftest import Dashboard
from ui.visits import Visit

AT = """(number) => {
    const chart = echarts.getInstanceByDom(document.querySelector("#history .chart"));
    const marks = chart.getOption().series.flatMap((s) => s.data);
    const mark = marks.find((d) => d.value && d.value[2] === number);
    const [x, y] = chart.convertToPixel({ xAxisIndex: 0, yAxisIndex: 0 }, mark.value.slice(0, 2));
    const box = chart.getDom().getBoundingClientRect();
    return [box.x + x, box.y + y];
}"""


@pytest.fixture
def history(visit: Visit, dashboard: Dashboard) -> Any:
    from playwright.sync_api import expect

    visit.page.goto(f"/ui/studies/{dashboard.study}")
    visit.page.locator("#curves[data-shown]").wait_for()  # its keys move what is below
    card = visit.page.locator("#history")
    card.scroll_into_view_if_needed()
    expect(card).to_have_attribute("data-shown", "26")
    return visit.page


def test_a_mark_says_all_that_varies_and_nothing_twice(history: Any) -> None:
    told = history.evaluate(
        "(n) => new Promise((done) => Tunesmith.told(n, '#24  refine\\nlr 0.005', done))", 24
    )
    assert told.splitlines() == ["#24  refine", "lr 0.005", "weight_decay 3.333e-5", "optimizer momentum"]


def test_a_click_opens_the_trial_and_with_shift_pins_it_below_the_chart(history: Any) -> None:
    from playwright.sync_api import expect

    x, y = history.evaluate(AT, 29)
    history.mouse.move(x, y)
    history.keyboard.down("Shift")
    history.mouse.click(x, y)
    history.keyboard.up("Shift")
    pins = history.locator("#history .pins li")
    expect(pins).to_contain_text(
        "#29 refine, val/loss 0.4018, lr 0.02, weight_decay 1e-4, optimizer momentum"
    )
    pins.get_by_role("button", name="unpin").click()
    expect(pins).to_have_count(0)
    history.mouse.click(*history.evaluate(AT, 29))
    history.wait_for_url("**/trials/29")


SLOW_TO_READ = """(what) => {
    const really = window.fetch;
    window.fetch = async (url, ...more) => {
        const answer = await really(url, ...more);
        if (!String(url).includes(what)) return answer;
        const view = await answer.json();
        answer.json = () => new Promise((done) => {
            window.goOn = () => done(view);
            document.body.dataset.isHeld = "";
        });
        return answer;
    };
}"""


def test_only_the_best_may_be_shown_so_that_the_axis_has_room_for_them(history: Any) -> None:
    from playwright.sync_api import expect

    card = history.locator("#history")
    slider = card.get_by_role("slider")
    slider.focus()
    for _ in range(16):
        slider.press("ArrowLeft")
    expect(card.locator(".said")).to_contain_text("The best 20 % of the trials with a value.")
    expect(card).to_have_attribute("data-shown", "5")
    top = "echarts.getInstanceByDom(document.querySelector('#history .chart')).getOption().yAxis[0].max"
    assert history.evaluate(top) < 0.6


def test_an_answer_to_what_is_no_longer_asked_moves_no_slider_back(history: Any) -> None:
    from playwright.sync_api import expect

    slider = history.locator("#history").get_by_role("slider")
    history.evaluate(SLOW_TO_READ, "best=95")
    held: dict[str, Any] = {}
    history.route(re.compile("best=90"), lambda route: held.update(route=route))
    slider.focus()
    slider.press("ArrowLeft")
    history.locator("body[data-is-held]").wait_for()
    with history.expect_request(re.compile("best=90")):
        slider.press("ArrowLeft")
    history.evaluate("window.goOn()")
    expect(slider).to_have_value("90")
    slider.press("ArrowLeft")
    held["route"].continue_()
    expect(history.locator("#history .said")).to_contain_text("The best 85 %")


def test_pointing_at_a_trial_lights_it_in_the_other_charts(history: Any) -> None:
    history.locator("#curves").scroll_into_view_if_needed()
    state = """() => echarts.getInstanceByDom(document.querySelector("#history .chart")).getZr().storage
        .getDisplayList(true).filter((drawn) => drawn.currentStates.includes("emphasis")).length"""
    assert history.evaluate(state) == 0
    history.evaluate("Tunesmith.light(24)")
    until(lambda: history.evaluate(state) == 1)  # ECharts does it with the next frame
    history.evaluate("Tunesmith.light(null)")
    until(lambda: history.evaluate(state) == 0)


def test_importance_says_by_which_method_it_is_and_over_how_many(visit: Visit, dashboard: Dashboard) -> None:
    from playwright.sync_api import expect

    visit.page.goto(f"/ui/studies/{dashboard.study}")
    card = visit.page.locator("#importance")
    card.scroll_into_view_if_needed()
    expect(card.locator(".said")).to_contain_text("PED-ANOVA over 26 complete trials.")
    card.get_by_role("button", name="fANOVA").click()
    expect(card.locator(".said")).to_contain_text("fANOVA over 26 complete trials.")
    view = dashboard.api("GET", f"/studies/{dashboard.study}/views/importance?evaluator=fanova").json()
    card.locator("summary").click()
    expect(card.locator("tbody tr").first).to_contain_text(view["names"][0])


def test_a_trial_that_no_other_beats_in_value_and_cost_is_chosen_and_opened(
    visit: Visit, dashboard: Dashboard
) -> None:
    """Browser test 28, for value against cost."""
    from playwright.sync_api import expect

    page = visit.page
    page.goto(f"/ui/studies/{dashboard.study}")
    card = page.locator("#pareto")
    card.scroll_into_view_if_needed()
    expect(card).to_have_attribute("data-shown", "26")
    view = dashboard.api("GET", f"/studies/{dashboard.study}/views/pareto").json()
    front = view["front"]
    best = dashboard.api("GET", f"/studies/{dashboard.study}/best").json()["items"][0]["number"]
    assert front["number"][-1] == best
    assert front["value"] == sorted(front["value"], reverse=True)
    expect(card.locator(".said")).to_contain_text(f"{len(front['number'])} of 26 trials are not beaten")
    box = card.locator("canvas").bounding_box()
    x, y = page.evaluate(
        """(n) => {
            const chart = echarts.getInstanceByDom(document.querySelector("#pareto .chart"));
            const front = chart.getOption().series.at(-1).data.find((d) => d.value[2] === n);
            return chart.convertToPixel({ xAxisIndex: 0, yAxisIndex: 0 }, front.value.slice(0, 2));
        }""",
        front["number"][0],
    )
    page.mouse.click(box["x"] + x, box["y"] + y)
    page.wait_for_url(f"**/trials/{front['number'][0]}")


@pytest.mark.parametrize(
    "asked",
    [
        "filter=lrr>1",
        "filter=lr>",
        "points=1",
        "pick=x",
        "nothing=1",
        f"filter={'a' * (MOST_CHARACTERS + 1)}",
    ],
)
def test_no_chart_answers_a_question_that_makes_no_sense_with_an_error_status(
    dashboard: Dashboard, person: httpx.Client, asked: str
) -> None:
    for view in CHARTS:
        answer = person.get(f"/ui/studies/{dashboard.study}/views/{view}?{asked}")
        assert (answer.status_code, set(answer.json())) == (200, {"wrong"}), view
        refused = dashboard.ask(
            "GET",
            f"/api/v1/studies/{dashboard.study}/views/{view}?{asked}",
            headers={"Authorization": f"Bearer {dashboard.operator}"},
        )
        assert refused.status_code == 422, view


def test_an_address_with_a_filter_that_cannot_be_read_is_told_by_every_chart_and_keeps_the_console_quiet(
    visit: Visit, dashboard: Dashboard
) -> None:
    from playwright.sync_api import expect

    page = visit.page
    for path in ("", "/explore", "/lineage", "/failures", "/pruning"):
        page.goto(f"/ui/studies/{dashboard.study}{path}?filter=lrr%3E1&pick=x&stage={'s' * 100}")
        charts = page.locator("[data-chart]")
        for i in range(charts.count()):
            if "filter" not in (charts.nth(i).get_attribute("data-asks") or ""):
                continue
            charts.nth(i).scroll_into_view_if_needed()
            expect(charts.nth(i).locator("[data-note]")).to_contain_text(
                re.compile("^pick: |did you mean lr")
            )
