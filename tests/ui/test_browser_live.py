"""A study watched while it runs: browser tests 4, 5 and 7."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import pytest
from processes import until
from ui.conftest import Dashboard
from ui.driven import Driven, Planned
from ui.visits import Visit, settled, visiting, withheld

HEARD = """() => {
  window.heard = [];
  const Native = window.EventSource;
  window.EventSource = class extends Native {
    constructor(...how) {
      super(...how);
      this.addEventListener("changes", (event) => {
        const told = JSON.parse(event.data);
        window.heard.push(...(told.skipped ? [`skipped ${told.skipped}`] : told.entries.map((e) => e.n)));
      });
    }
  };
}"""
"""Before a page's own scripts: note the numbers of all entries that its stream brings."""

HEARS_NEWS = """() => {
  window.heard = new Promise((heard) => document.body.addEventListener("live-study", heard));
}"""


@pytest.fixture
def served(tmp_path: Any) -> Iterator[Planned]:
    planned = Planned(tmp_path)
    yield planned
    planned.process.kill()


@pytest.fixture
def watched(served: Planned, chromium: Any) -> Iterator[Visit]:
    with visiting(served, chromium) as found:
        yield found


@pytest.fixture
def driven(served: Planned) -> Iterator[Driven]:
    worker = Driven(served)
    yield worker
    worker.close()


def two_stages(dashboard: Dashboard, name: str, **refine: Any) -> int:
    study = {
        "name": name, "task": "light", "space": {"lr": {"low": 1e-3, "high": 1.0, "log": True}},
        "stages": [
            {"kind": "coarse_grid", "name": "coarse", "epochs": 2, "axes": {"lr": [0.01, 0.1, 1.0]}},
            {"kind": "refine_grid", "name": "refine", "epochs": 4, "top": 1} | refine,
        ],
    }  # fmt: skip
    return int(dashboard.api("POST", "/studies", json=study).json()["id"])


def trials(dashboard: Dashboard, study: int) -> list[Any]:
    return list(dashboard.api("GET", f"/studies/{study}/trials").json()["items"])


def shown(value: float) -> str:
    return f"{value:#.4g}"


def test_curves_grow_the_best_changes_and_the_next_stage_begins_without_a_reload(
    watched: Visit, served: Planned, driven: Driven
):
    """Browser test 4."""
    from playwright.sync_api import expect

    page = watched.page
    page.goto(f"/ui/studies/{two_stages(served, 'watched')}")
    expect(page.get_by_role("status")).to_have_text("live")
    page.evaluate("() => { document.body.dataset.same = 'page' }")
    best = page.get_by_role("region", name="Best trial")
    expect(best).to_contain_text("No trial has a value yet.")
    active = page.locator(".pipeline .stage.active")
    expect(active).to_contain_text("coarse")

    driven.claim()
    driven.report(1)
    page.locator("#curves summary").click()
    points = page.locator("#curves tbody tr")
    expect(points).to_have_count(1)
    values = [driven.report(2)]
    expect(points).to_have_count(2)
    driven.finish()
    expect(best).to_contain_text(shown(values[0]))
    expect(best).to_contain_text("trial #0")
    for _ in range(2):
        values.append(driven.run())
    assert len(set(values)) == 3
    assert min(values) < values[0], "the first is not the best, so that the best changes"
    expect(best).to_contain_text(shown(min(values)))
    expect(active).to_contain_text("refine")
    expect(page.locator(".pipeline .stage.done")).to_contain_text("coarse")
    expect(page.locator(".pipeline .stage.done")).to_contain_text("3 complete")

    refined = driven.run()
    assert refined < min(values), "more epochs, a lower loss"
    expect(active).to_contain_text("1 complete")
    expect(best).to_contain_text(shown(refined))
    assert page.evaluate("() => document.body.dataset.same") == "page"


def test_no_event_is_lost_or_doubled_when_the_server_is_killed_and_started_again(
    watched: Visit, served: Planned, driven: Driven
):
    """Browser test 5."""
    from playwright.sync_api import expect

    study = two_stages(served, "killed")
    page = watched.page
    page.add_init_script(f"({HEARD})()")
    page.goto(f"/ui/studies/{study}")
    first = int(page.locator("body").get_attribute("data-after"))
    lamp = page.get_by_role("status")
    expect(lamp).to_have_text("live")
    driven.claim()
    driven.report(1)
    until(lambda: page.evaluate("() => window.heard.length"), saw=lambda: "nothing of the first report")

    served.process.kill()  # SIGKILL
    expect(lamp).to_have_text("reconnecting")
    served.start()
    driven.report(2)
    driven.finish()
    expect(lamp).to_have_text("live", timeout=60_000)
    watched.wrong.clear()  # browser and htmx note each connection that was cut or refused
    driven.run()
    until(lambda: len(trials(served, study)) == 3, saw=lambda: trials(served, study))  # all that coarse plans
    served.api("POST", f"/studies/{study}/pause")
    expect(page.get_by_role("heading", level=1)).to_contain_text("paused")

    log = served.api("GET", f"/studies/{study}/events", params={"limit": 1000}).json()["items"]
    numbers = [event["n"] for event in log]
    assert numbers == list(range(1, len(log) + 1))
    assert {"reported", "moved", "study"} <= {event["kind"] for event in log if event["n"] > first}
    heard = until(
        lambda: found if (found := page.evaluate("() => window.heard"))[-1] == numbers[-1] else None,
        saw=lambda: page.evaluate("() => window.heard"),
    )
    assert heard == numbers[first:]
    page.get_by_role("link", name="events", exact=True).click()
    told = [str(event["n"]) for event in reversed(log) if event["kind"] != "reported"]
    expect(page.locator("main tbody td:last-child")).to_have_text(told)


def test_a_dialog_that_is_read_stays_and_its_heading_follows_once_it_is_closed(
    watched: Visit, served: Planned
):
    from playwright.sync_api import expect

    study = two_stages(served, "read")
    until(lambda: served.api("GET", f"/studies/{study}/trials").json()["items"])
    page, asked = watched.page, list[str]()
    page.goto(f"/ui/studies/{study}")
    expect(page.get_by_role("status")).to_have_text("live")
    page.get_by_role("button", name="Stop…").click()
    page.on("request", lambda request: asked.append(request.url))
    page.evaluate(HEARS_NEWS)
    served.api("POST", f"/studies/{study}/pause")
    page.evaluate("async () => { await window.heard; }")
    expect(page.get_by_role("dialog")).to_be_visible()
    assert not [url for url in asked if url.endswith("parts/heading")]
    page.get_by_role("dialog").get_by_role("button", name="Keep it as it is").click()
    expect(page.get_by_role("button", name="Resume…")).to_be_visible()

    # The same where its part had been asked for by then.
    with page.expect_response("**/parts/heading"), withheld(page, "**/parts/heading"):
        with page.expect_request("**/parts/heading"):
            served.api("POST", f"/studies/{study}/resume")
        page.get_by_role("button", name="Stop…").click()
    settled(page)
    expect(page.get_by_role("dialog")).to_be_visible()
    page.get_by_role("dialog").get_by_role("button", name="Keep it as it is").click()
    expect(page.get_by_role("button", name="Pause…")).to_be_visible()


def test_the_refined_stage_says_which_coarse_cells_it_lies_around_and_its_ranges_are_the_interfaces(
    watched: Visit, served: Planned, driven: Driven
):
    """Browser test 7."""
    from playwright.sync_api import expect

    study = two_stages(served, "explained")
    page = watched.page
    page.goto(f"/ui/studies/{study}")
    card = page.locator(".pipeline .stage").filter(has=page.get_by_role("link", name="refine", exact=True))
    expect(card).to_contain_text("Cells 2 times finer around the best 1.")
    expect(card.get_by_label("Where refine looks")).to_have_count(0)
    for _ in range(3):
        driven.run()
    best = served.api("GET", f"/studies/{study}/best").json()["items"][0]
    assert best["stage"] == "coarse"
    looks = card.get_by_label("Where refine looks")
    expect(looks).to_contain_text(f"#{best['number']} of coarse")

    grounds = stage_of(served, study)["grounds"]
    assert (grounds["source"], grounds["trials"]) == ("coarse", [best["number"]])
    low, high = grounds["ranges"]["lr"]
    assert math.isclose(best["params"]["lr"] / low, high / best["params"]["lr"], rel_tol=1e-6)
    expect(looks.locator("data").nth(0)).to_have_attribute("value", str(low))
    expect(looks.locator("data").nth(1)).to_have_attribute("value", str(high))
    expect(looks).to_contain_text("steps of 0.5 decades")

    expect(page.locator(".pipeline .stage.active")).to_contain_text("refine")
    for _ in range(3):
        driven.run()
    expect(card).to_contain_text("done")
    expect(card).to_contain_text("3 cells of 4 epochs around the best 1 of coarse.")
    tried = [
        trial["params"]["lr"]
        for trial in served.api("GET", f"/studies/{study}/trials").json()["items"]
        if trial["stage"] == "refine"
    ]
    assert (min(tried), max(tried)) == (low, high)
    assert stage_of(served, study)["grounds"] == grounds
    assert stage_of(served, study)["result"]["chosen"]["grounds"] == grounds
    expect(looks.locator("data").nth(1)).to_have_attribute("value", str(high))

    card.get_by_role("link", name="refine", exact=True).click()
    expect(page.locator("#rows tr")).to_have_count(3)
    looks.get_by_role("link", name=f"#{best['number']}").click()
    expect(page.get_by_role("heading", level=1)).to_contain_text(f"#{best['number']}")


def stage_of(dashboard: Dashboard, study: int) -> dict[str, Any]:
    stages = dashboard.api("GET", f"/studies/{study}").json()["stages"]
    return next(s for s in stages if s["name"] == "refine")
