"""Clone, vary, extend, tag and try again in a real browser."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from processes import Worker, until
from ui.conftest import Dashboard
from ui.edged import Edged
from ui.test_browser_actions import study_of
from ui.visits import Visit, lasting, settled, visiting, withheld


class Planned(Dashboard):
    plans = True


def refusals(visit: Visit, status: int) -> None:
    """A form that is refused is no fault of the page."""
    visit.wrong[:] = [w for w in visit.wrong if str(status) not in w]


def test_a_study_is_cloned_and_one_thing_changed(visit: Visit, dashboard: Dashboard) -> None:
    """The page shows the difference while one types, before anything is created."""
    from playwright.sync_api import expect

    page = visit.page
    page.goto(f"/ui/studies/{dashboard.study}")
    page.get_by_role("link", name="Clone", exact=True).click()
    expect(page.get_by_role("heading", level=1)).to_have_text("Clone of cifar-mini-resnet")
    page.wait_for_load_state()  # until then nobody listens to what one types
    differences = page.get_by_role("region", name="What differs")
    expect(differences).to_contain_text("Nothing yet.")
    page.locator('[name="space.0.high"]').fill("2")
    expect(differences.get_by_role("row", name="space.lr.high")).to_have_text("space.lr.high12")
    expect(page.locator('[name="space.0.high"]')).to_be_focused()
    page.locator('[name="space.0.high"]').fill("high")
    expect(differences).to_contain_text("once everything on this page can be read")
    page.locator('[name="space.0.high"]').fill("2")
    page.get_by_role("group", name="Fixed hyperparameter, row 1").get_by_role("button").click()
    expect(differences.get_by_role("row", name="fixed.batch_size")).to_have_text("fixed.batch_size64–")
    page.get_by_role("button", name="Go on as text").click()
    text = page.get_by_label("YAML")
    expect(text).to_be_visible()
    settled(page)
    text.fill(text.input_value() + "retries: 4\n")
    expect(differences.get_by_role("row", name="retries")).to_have_text("retries24")
    expect(differences.get_by_role("row", name="space.lr.high")).to_have_text("space.lr.high12")
    expect(differences.get_by_role("row")).to_have_count(4)
    page.get_by_role("button", name="Create").click()
    expect(page.get_by_role("heading", level=1)).to_contain_text("cifar-mini-resnet_2")
    made = dashboard.api("GET", "/studies/cifar-mini-resnet_2").json()["spec"]
    assert (made["space"]["lr"]["high"], made["retries"]) == (2.0, 4)
    page.get_by_role("link", name="events", exact=True).click()
    expect(page.get_by_text(f"cloned from study {dashboard.study}")).to_be_visible()
    dashboard.api("POST", "/studies/cifar-mini-resnet_2/stop")


def test_a_variant_is_queued_from_a_trials_page_and_both_pages_link(
    visit: Visit, dashboard: Dashboard
) -> None:
    from playwright.sync_api import expect

    page = visit.page
    page.goto(f"/ui/studies/{dashboard.study}/trials/9")
    page.get_by_role("link", name="Enqueue variant").click()
    differences = page.get_by_role("region", name="What differs")
    expect(differences.get_by_role("row", name="stage")).to_have_text("stagecoarserefine")  # coarse is done
    page.get_by_label("lr", exact=True).fill("7")
    page.get_by_label("optimizer").select_option("momentum")
    page.get_by_role("button", name="Enqueue").click()
    expect(page.get_by_text("lr=7.0 is outside the space, which has [0.0001, 1]")).to_be_visible()
    expect(page.get_by_label("lr", exact=True)).to_be_focused()
    expect(page.get_by_label("lr", exact=True)).to_have_value("7")
    refusals(visit, 422)
    page.get_by_label("lr", exact=True).fill("0.02")
    expect(differences.get_by_role("row", name="lr")).to_have_text("lr0.010.02")
    expect(differences.get_by_role("row", name="optimizer")).to_have_text("optimizeradammomentum")
    page.get_by_role("button", name="Enqueue").click()
    expect(page.get_by_role("heading", level=1)).to_contain_text("waiting")
    expect(page.locator(".facts")).to_contain_text(
        "variant of #9 (lr 0.01 → 0.02, optimizer adam → momentum)"
    )
    new = page.get_by_role("heading", level=1).inner_text().split()[0]
    page.locator("#original").click()
    expect(page.get_by_role("heading", level=1)).to_contain_text("#9")
    page.get_by_text("varied as").get_by_role("link", name=new).click()
    expect(page.get_by_role("heading", level=1)).to_contain_text(new)
    dashboard.api("POST", f"/studies/{dashboard.study}/trials/{new[1:]}/cancel")


def test_a_form_that_is_sent_before_its_scripts_are_there_loses_nothing(
    visit: Visit, dashboard: Dashboard
) -> None:
    from playwright.sync_api import expect

    page = visit.page
    with withheld(page, "**/htmx*"):
        page.goto(f"/ui/studies/{dashboard.study}/trials/9/variant", wait_until="commit")
        page.get_by_label("lr", exact=True).fill("7")
        page.get_by_role("button", name="Enqueue").click(no_wait_after=True)
        expect(page.get_by_label("lr", exact=True)).to_have_value("7")
    expect(page.get_by_text("lr=7.0 is outside the space, which has [0.0001, 1]")).to_be_visible()
    refusals(visit, 422)


def test_what_is_typed_or_pressed_before_the_scripts_are_there_is_heard_by_them(
    visit: Visit, dashboard: Dashboard
) -> None:
    from playwright.sync_api import expect

    page = visit.page
    with withheld(page, "**/htmx*"):
        page.goto(f"/ui/studies/{dashboard.study}/trials/9/variant", wait_until="commit")
        page.get_by_label("lr", exact=True).fill("0.02")
    differences = page.get_by_role("region", name="What differs")
    expect(differences.get_by_role("row", name="lr")).to_have_text("lr0.010.02")
    with withheld(page, "**/htmx*"):
        page.goto("/ui/settings", wait_until="commit")
        page.get_by_role("button", name="Log out", exact=True).click(no_wait_after=True)
    page.wait_for_url("**/ui/login*")


def test_a_best_on_the_edge_of_the_space_is_extended_by_a_stage(chromium: Any, tmp_path: Path) -> None:
    """Browser test 14: real trainings by a real worker, whose best rate is the largest of the space."""
    from playwright.sync_api import expect

    served = Planned(tmp_path, empty=True)
    spec = {
        "name": "edged", "task": "digits", "space": {"lr": {"low": 1e-5, "high": 1e-3, "log": True}},
        "fixed": {"optimizer": "sgd", "batch_size": 32},
        "stages": [{"kind": "coarse_grid", "name": "grid", "epochs": 2, "axes": {"lr": 3}}],
    }  # fmt: skip
    study = served.api("POST", "/studies", json=spec).json()["id"]
    token = (served.home / "worker.token").read_text().strip()

    def is_complete() -> bool:
        return bool(served.api("GET", f"/studies/{study}").json()["state"] == "complete")

    try:
        with Worker(served.url, token, tmp_path / "worker") as worker, visiting(served, chromium) as visit:
            until(is_complete, 600, saw=lambda: worker.said)
            page = visit.page
            page.goto(f"/ui/studies/{study}")
            edge = page.locator(".findings li").filter(has_text="among the largest of the values tried")
            edge.get_by_role("link", name="Extend lr").click()
            expect(page.get_by_label("Name", exact=True)).to_have_value("lr_beyond")
            expect(page.get_by_label("Kind")).to_have_value("coarse_grid")
            expect(page.get_by_label("Builds on")).to_have_value("grid")
            expect(page.get_by_label("Epochs of a trial")).to_have_value("2")
            expect(page.get_by_label("low of lr")).to_have_value("0.001")
            expect(page.get_by_label("high of lr")).to_have_value("0.01")
            page.wait_for_load_state()
            runs = page.get_by_role("region", name="What it runs")
            expect(runs).to_contain_text("At most 3 trials, 6 epochs in all. lr: 0.001, 0.003162, 0.01.")
            expect(runs).to_contain_text("from this stage on it is [1e-05, 0.01]")
            page.get_by_label("high of lr").fill("0.1")
            expect(runs).to_contain_text("lr: 0.001, 0.01, 0.1.")
            page.get_by_role("button", name="Add the stage").click()
            expect(page.get_by_role("heading", level=1)).to_contain_text("edged")
            expect(page.locator(".stage").filter(has_text="lr_beyond")).to_be_visible()
            until(is_complete, 600, saw=lambda: worker.said)
            tried = served.api("GET", f"/studies/{study}/trials?stage=lr_beyond").json()["items"]
            assert [t["params"]["lr"] for t in tried] == [0.001, 0.01, 0.1]
            best = served.api("GET", f"/studies/{study}").json()["best"]
            assert best["params"]["lr"] > 0.001, "better ones did lie beyond"
            page.reload()
            expect(page.locator(".stage.done").filter(has_text="lr_beyond")).to_contain_text("Best is trial")
    finally:
        served.process.kill()


def test_a_stopped_study_is_cloned_with_the_wider_range(chromium: Any, tmp_path: Path) -> None:
    """It takes no stage any more, so the page that would add one leads to a clone."""
    from playwright.sync_api import expect

    served = Edged(tmp_path)
    try:
        with visiting(served, chromium) as visit:
            page = visit.page
            served.api("POST", f"/studies/{served.study}/stop")
            page.goto(f"/ui/studies/{served.study}")
            page.get_by_role("link", name="Extend lr").click()
            expect(page.get_by_text("The study was stopped, so it takes no stage any more.")).to_be_visible()
            page.get_by_role("link", name="Clone it with the wider range").click()
            differences = page.get_by_role("region", name="What differs")
            expect(differences.get_by_role("row", name="space.lr.high")).to_have_text("space.lr.high12.5")
            expect(differences.get_by_role("row", name="stages.coarse.axes.lr")).to_contain_text("0.5, 2.5]")
            page.get_by_role("button", name="Create").click()
            expect(page.get_by_role("heading", level=1)).to_contain_text("cifar-mini-resnet_2 active")
    finally:
        served.process.kill()


def test_the_config_is_copied_and_downloaded(visit: Visit, dashboard: Dashboard) -> None:
    from playwright.sync_api import expect

    page = visit.page
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    page.goto(f"/ui/studies/{dashboard.study}")
    page.get_by_role("link", name="config", exact=True).click()
    file = page.get_by_label("The study as YAML")
    expect(file).to_contain_text("name: cifar-mini-resnet")
    page.wait_for_load_state()
    lasting(page)
    page.get_by_role("button", name="Copy").click()
    expect(page.get_by_role("button", name="Copied")).to_be_visible()
    assert page.evaluate("navigator.clipboard.readText()") == file.text_content()
    with page.expect_download() as download:
        page.get_by_role("link", name="Download").click()
    assert download.value.suggested_filename == "cifar-mini-resnet.yaml"
    assert Path(download.value.path()).read_text(encoding="utf-8") == file.text_content()
    page.get_by_role("link", name="with every field").click()
    expect(file).to_contain_text("fresh_wait_seconds: 0.25")
    page.get_by_role("link", name="Clone and change one thing").click()
    expect(page.get_by_role("heading", level=1)).to_have_text("Clone of cifar-mini-resnet")


def test_selected_trials_are_tagged_and_tried_again(visit: Visit, dashboard: Dashboard) -> None:
    """Those among them that failed; the others stay as they are."""
    from playwright.sync_api import expect

    study = study_of(dashboard, "picked in a browser")
    dashboard.api("POST", f"/studies/{study}/trials", json={"params": [{"lr": 0.2}], "stage": "grid"})
    dashboard.api("POST", f"/studies/{study}/trials/1/cancel")
    page = visit.page
    page.goto(f"/ui/studies/{study}/explore")
    page.get_by_label("Select trial #0").check()
    page.get_by_label("Select trial #1").check()
    bar = page.get_by_role("region", name="Selected trials")
    bar.get_by_role("button", name="Tag…").click()
    page.get_by_label("Give, with commas between").fill("odd, look again")
    page.get_by_role("dialog").get_by_role("button", name="Tag", exact=True).click()
    expect(page.get_by_role("dialog")).to_have_count(0)
    expect(bar).to_contain_text("2 selected")  # the page was loaded anew, with the same address
    page.goto(f"/ui/studies/{study}/explore?filter=tag:odd&pick=0,1")
    expect(page.locator("#rows tr")).to_have_count(2)
    bar.get_by_role("button", name="Try again…").click()
    page.get_by_role("dialog").get_by_role("button", name="Try again", exact=True).click()
    page.wait_for_url(re.compile("filter=number:2$"))
    expect(page.locator("#rows tr")).to_have_count(1)
    expect(page.locator("#rows")).to_contain_text("again after #1")
    page.goto(f"/ui/studies/{study}/trials/0")
    page.get_by_role("button", name="Tag…").click()
    page.get_by_label("Take away").fill("odd")
    page.get_by_role("dialog").get_by_role("button", name="Tag", exact=True).click()
    expect(page.locator(".facts .badge")).to_have_text(["look again"])
    dashboard.api("POST", f"/studies/{study}/stop")
