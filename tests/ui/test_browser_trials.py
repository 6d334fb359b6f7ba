"""A trial's page and the pages about trials in a real browser: failures, pruning, restarts, confusion
matrices with their samples, and how to run a trial again."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from light import LightWorker
from processes import Process, Worker, until
from ui.conftest import Dashboard
from ui.tried import PRUNED, TRUNK, WHOLE, Tried
from ui.visits import Visit, lasting, visiting

SHOWN = "[data-shown]:not([data-shown='0'])"
FAILED_TRIAL = WHOLE + PRUNED
INSTANCE = "echarts.getInstanceByDom(document.querySelector({}))"


def drawn_by(page: Any, name: str, what: str) -> Any:
    """Of what a chart has drawn, whatever `what` picks from its series."""
    return page.evaluate(f"() => {INSTANCE.format(repr(f'#{name} .chart'))}.getOption().series{what}")


@pytest.fixture(scope="module")
def tried(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tried]:
    served = Tried(tmp_path_factory.mktemp("tried"))
    yield served
    served.process.kill()


@pytest.fixture
def visit(tried: Tried, chromium: Any) -> Iterator[Visit]:
    with visiting(tried, chromium) as found:
        yield found


def opened(visit: Visit, path: str) -> Any:
    visit.page.goto(path)
    return visit.page


def chart(page: Any, name: str) -> Any:
    """A chart once it has drawn what the server sent."""
    from playwright.sync_api import expect

    found = page.locator(f"#{name}")
    found.scroll_into_view_if_needed()
    expect(page.locator(f"#{name}{SHOWN}")).to_be_visible()
    return found


def pixel(page: Any, name: str, at: list[float], series: int) -> tuple[float, float]:
    """Where on the page a chart shows a place of its axes."""
    find = (
        "([id, at, s]) => " + INSTANCE.format("`#${id} .chart`") + ".convertToPixel({ seriesIndex: s }, at)"
    )
    x, y = page.evaluate(find, [name, at, series])
    box = page.locator(f"#{name} .chart").bounding_box()
    return box["x"] + x, box["y"] + y


def test_a_failed_trial_says_why_and_the_failures_page_groups_it(visit: Visit, tried: Tried) -> None:
    """Browser test 10, its first half: reason and traceback visible; the failures' page groups it."""
    from playwright.sync_api import expect

    page = opened(visit, f"/ui/studies/{tried.study}/trials/{FAILED_TRIAL}")
    expect(page.get_by_role("heading", name="RuntimeError")).to_be_visible()
    expect(page.get_by_label("Traceback")).to_contain_text('File "my_tasks.py", line 41')
    expect(page.get_by_label("Last lines of its log")).to_contain_text("step 60: the head does not fit")
    page.get_by_role("link", name="1 other failed like this").click()
    group = page.get_by_role("region", name="RuntimeError")
    expect(group).to_contain_text("2 trials")
    expect(group.get_by_role("img", name="optimizer: momentum 2 of 3")).to_be_visible()
    group.get_by_role("link", name=f"#{FAILED_TRIAL}", exact=True).click()
    expect(page.get_by_role("heading", level=1)).to_contain_text(f"#{FAILED_TRIAL}")


class Impatient(Dashboard):
    """A server that gives up a worker after ten seconds without a beat."""

    def start(self) -> None:
        command = [
            sys.executable, "-m", "tunesmith_service", "serve", "--home", str(self.home),
            "--port", str(self.port), "--no-planner", "--reserve-bytes", "0", "--ttl-seconds", "10",
            "--sweep-seconds", "0.2",
        ]  # fmt: skip
        self.process = Process(command)
        until(self._answers, saw=lambda: self.process.said)


@contextmanager
def impatient(home: Path) -> Iterator[Impatient]:
    served = Impatient(home, empty=True)
    yield served
    served.process.kill()


def test_a_lost_workers_trial_waits_again_and_completes_elsewhere(chromium: Any, tmp_path: Path) -> None:
    """Browser test 11: lost, requeued, completed elsewhere; never shown as failed."""
    from playwright.sync_api import expect

    async def vanish(worker: LightWorker) -> None:
        await worker.register()
        claimed = await worker.claim(5)
        assert claimed is not None
        await worker.report(*claimed, 1, 1)
        await worker.client.aclose()

    async def finish(worker: LightWorker) -> bool:
        await worker.register()
        ran = await worker.run_one(20)
        await worker.client.aclose()
        return ran

    with impatient(tmp_path) as served, visiting(served, chromium) as visit, ThreadPoolExecutor(1) as pool:
        spec = {
            "name": "lossy", "task": "light", "space": {"lr": [0.1, 0.2]},
            "stages": [{"kind": "coarse_grid", "name": "grid", "epochs": 3}],
        }  # fmt: skip
        study = served.api("POST", "/studies", json=spec).json()["id"]
        served.api("POST", f"/studies/{study}/trials", json={"params": [{"lr": 0.1}], "stage": "grid"})
        token = (served.home / "worker.token").read_text().strip()
        page = opened(visit, f"/ui/studies/{study}/trials/0")
        pool.submit(asyncio.run, vanish(LightWorker(served.url, token, name="gone"))).result()
        heading = page.locator("main .title")
        expect(heading).to_contain_text("requeued for attempt 2")
        assert "failed" not in page.locator("main").inner_text()
        assert pool.submit(asyncio.run, finish(LightWorker(served.url, token, name="heir"))).result()
        expect(heading).to_contain_text("complete")
        expect(heading).to_contain_text("attempt 2")
        attempts = page.get_by_role("region", name="Attempts")
        expect(attempts).to_contain_text("lost: its lease expired; the trial waits again")
        expect(attempts).to_contain_text("heir")
        page.goto(f"/ui/studies/{study}/failures")
        lost = page.get_by_role("region", name="Worker lost")
        expect(lost).to_contain_text("1 trial")
        assert "failed" not in page.locator("main section").first.inner_text()


def test_a_pruned_curve_ends_where_it_was_pruned_above_the_threshold(visit: Visit, tried: Tried) -> None:
    """Browser test 12: the curve ends at the prune step, with the threshold line."""
    from playwright.sync_api import expect

    page = opened(visit, f"/ui/studies/{tried.study}/trials/{WHOLE}")
    losses = chart(page, "losses")
    expect(losses.locator(".said")).to_contain_text("Pruned at epoch 4.")
    expect(losses.locator(".said")).to_contain_text("median of 12 complete trials")
    drawn = drawn_by(page, "losses", ".map((s) => [s.name, s.data.at(-1)[0], s.data.length])")
    assert [name for name, _, _ in drawn] == ["val/loss", "train/loss", "stage's median", "prune threshold"]
    assert drawn[0][1:] == [4, 4]
    assert drawn[3][1] == 10
    losses.get_by_text("Show data").click()
    row = losses.get_by_role("row").filter(has=page.get_by_role("cell", name="4", exact=True)).first
    expect(row.get_by_role("cell")).to_have_count(5)
    value, _, _, threshold = (float(cell) for cell in row.get_by_role("cell").all_inner_texts()[1:])
    assert value > threshold


@pytest.mark.parametrize(("mode", "epochs", "fraction"), [("overfit", 60, 0.05), ("healthy", 6, 1.0)])
def test_a_diagnosis_names_overfitting_with_its_epoch_and_leaves_a_healthy_run_alone(
    mode: str, epochs: int, fraction: float, chromium: Any, tmp_path: Path
) -> None:
    """Browser test 13: real trainings by a real worker."""
    from playwright.sync_api import expect

    served = Dashboard(tmp_path, empty=True)
    spec = {
        "name": mode, "task": "digits", "space": {"lr": [0.003, 0.01]}, "fixed": {"optimizer": "adam"},
        "stages": [{"kind": "coarse_grid", "name": "grid", "epochs": epochs, "data_fraction": fraction}],
    }  # fmt: skip
    study = served.api("POST", "/studies", json=spec).json()["id"]
    lr = 0.01 if mode == "overfit" else 0.003
    served.api("POST", f"/studies/{study}/trials", json={"params": [{"lr": lr}], "stage": "grid"})
    token = (served.home / "worker.token").read_text().strip()
    try:
        with Worker(served.url, token, tmp_path / "worker") as worker, visiting(served, chromium) as visit:

            def ended() -> bool:
                return bool(served.api("GET", f"/studies/{study}/trials/0").json()["state"] == "complete")

            until(ended, saw=lambda: worker.said)
            page = opened(visit, f"/ui/studies/{study}/trials/0")
            diagnosis = page.get_by_role("region", name="Diagnosis")
            expect(diagnosis).to_contain_text("best epoch")
            if mode == "overfit":
                expect(diagnosis).to_contain_text("It overfits")
                best = diagnosis.locator(".facts b").first.inner_text()
                expect(diagnosis).to_contain_text(f"above its best of step {best}")
                assert 0 < int(best) < epochs
            else:
                assert diagnosis.locator("li.warn, li.fail").count() == 0
            chart(page, "gap")
            chart(page, "schedule")
    finally:
        served.process.kill()


def test_a_cell_of_the_matrix_shows_its_samples_and_two_trials_are_told_apart(
    visit: Visit, tried: Tried
) -> None:
    """Browser test 15: row %, delta of two trials, a click on a cell shows the right samples."""
    from playwright.sync_api import expect

    page = opened(visit, f"/ui/studies/{tried.study}/trials/0")
    matrix = chart(page, "confusion")
    expect(matrix.locator(".said")).to_contain_text("320 of 360 samples right (88.9 %)")
    expect(matrix.get_by_role("button", name="row %")).to_have_attribute("aria-pressed", "true")
    page.mouse.click(*pixel(page, "confusion", [4, 3], 0))
    cell = page.get_by_role("region", name="True class 3, taken for 4")
    expect(cell).to_contain_text("4 samples of the split; 3 of them kept")
    expect(cell.locator("figure")).to_have_count(3)
    expect(cell.locator("figure").first).to_contain_text("said 4 91 %")
    expect(cell.locator("figure").first).to_contain_text("is 3")
    expect(cell.locator("canvas[data-drawn='1']")).to_have_count(3)
    expect(page.get_by_role("region", name="Worst mistakes").locator("canvas[data-drawn='1']")).to_have_count(
        24
    )
    matrix.get_by_label("True class").select_option("5")
    matrix.get_by_label("Taken for").select_option("5")
    matrix.get_by_role("button", name="Show samples").click()
    expect(page.get_by_role("heading", name="True class 5, taken for 5")).to_be_visible()
    matrix.get_by_label("minus trial").fill("1")
    matrix.get_by_label("minus trial").blur()
    expect(matrix.locator(".said")).to_contain_text("row % minus that of #1")
    diagonal = "[0].data.map((d) => d.value || d).filter((d) => d[0] === d[1]).map((d) => d[2])"
    values = drawn_by(page, "confusion", diagonal)
    assert values == pytest.approx([100 * (32 - 25) / 36] * 10)


def test_a_matrix_of_a_hundred_classes_is_usable(visit: Visit, tried: Tried) -> None:
    """Browser test 15: 100 classes still usable."""
    from playwright.sync_api import expect

    page = opened(visit, f"/ui/studies/{tried.study}/trials/2")
    matrix = chart(page, "confusion")
    expect(matrix.locator(".said")).to_contain_text("2900 of 3600 samples right")
    page.mouse.click(*pixel(page, "confusion", [11, 10], 0))
    expect(page.get_by_role("heading", name="True class 10, taken for 11")).to_be_visible()
    matrix.get_by_text("Show data").click()
    expect(matrix.get_by_role("row")).to_have_count(201)


def test_a_restart_tree_shows_what_changed_and_leads_to_the_parent(visit: Visit, tried: Tried) -> None:
    """Browser test 16: restart tree, the edge shows the change of weight decay, click the parent."""
    from playwright.sync_api import expect

    page = opened(visit, f"/ui/studies/{tried.study}/lineage")
    tree = chart(page, "lineage")
    labels = "[1].data.map((d) => d.label.formatter)"
    drawn = drawn_by(page, "lineage", labels)
    assert "weight_decay 2e-4 → 2.1e-4" in drawn[1]
    assert "from snapshot at 15" in drawn[1]
    assert len(drawn) == 10  # the trunk, its best eight, and the rest in one line
    assert "4 more" in drawn[9]
    page.mouse.click(*pixel(page, "lineage", [1, 9], 1))
    expect(tree.get_by_role("button", name="unfold all")).to_have_attribute("aria-pressed", "true")
    assert len(drawn_by(page, "lineage", labels)) == 13
    page.mouse.click(*pixel(page, "lineage", [1, 1], 1))
    expect(page.get_by_role("heading", level=1)).to_contain_text(f"#{TRUNK + 1}")
    page.locator("#parent").click()
    expect(page.get_by_role("heading", level=1)).to_contain_text(f"#{TRUNK}")
    chart(page, "lineage")


def test_the_best_trials_command_runs_in_a_shell_with_the_same_settings(
    tried: Tried, chromium: Any, tmp_path: Path
) -> None:
    """Browser test 19: copy the best as CLI, paste it in a shell."""
    from playwright.sync_api import expect

    with visiting(tried, chromium) as visit:
        visit.page.context.grant_permissions(["clipboard-read", "clipboard-write"])
        page = opened(visit, f"/ui/studies/{tried.study}")
        lasting(page)
        page.get_by_role("button", name="Copy as CLI").first.click()
        expect(page.get_by_role("button", name="Copied").first).to_be_visible()
        command = page.evaluate("() => navigator.clipboard.readText()")
    program = tmp_path / "tunesmith"
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -m tunesmith_service "$@"\n')
    program.chmod(0o755)
    environ = {k: v for k, v in os.environ.items() if not k.startswith("TUNESMITH_")}
    environ |= {"TUNESMITH_URL": tried.url, "TUNESMITH_TOKEN": tried.operator}
    environ["PATH"] = f"{tmp_path}:/usr/bin:/bin"
    run = subprocess.run(
        ["/bin/sh", "-c", command], cwd=tmp_path, env=environ,
        text=True, capture_output=True, timeout=600, check=False,
    )  # fmt: skip
    assert run.returncode == 0, run.stdout + run.stderr
    best = tried.api("GET", f"/studies/tried/trials/{TRUNK + 1}").json()
    newest = tried.api("GET", "/studies/tried/trials?sort=-number&limit=1").json()["items"][0]
    assert newest["params"] == best["params"]
    assert newest["state"] == "waiting"


def test_a_log_is_searched_line_by_line(visit: Visit, tried: Tried) -> None:
    from playwright.sync_api import expect

    page = opened(visit, f"/ui/studies/{tried.study}/trials/0")
    log = page.get_by_role("region", name="Log", exact=True)
    log.get_by_label("Search").fill("epoch 9")
    expect(log.get_by_role("status")).to_have_text("1 of 11")
    log.get_by_label("Search").press("Enter")
    expect(log.get_by_role("status")).to_have_text("2 of 11")
    log.get_by_label("only lines with it").check()
    assert len(log.locator("pre").inner_text().strip().split("\n")) == 11
    log.get_by_label("Search").fill("")
    assert len(log.locator("pre").inner_text().strip().split("\n")) == 100


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_phone_shows_these_pages_without_scrolling_sideways(
    tried: Tried, chromium: Any, scheme: str
) -> None:
    study = f"/ui/studies/{tried.study}"
    paths = [f"{study}/trials/{n}" for n in (0, 2, WHOLE, FAILED_TRIAL, TRUNK + 1)]
    paths += [f"{study}/{tab}" for tab in ("lineage", "failures", "pruning", "events")]
    with visiting(tried, chromium) as visit:
        visit.page.emulate_media(color_scheme=scheme)
        visit.page.set_viewport_size({"width": 390, "height": 844})
        for path in paths:
            visit.page.goto(path)
            visit.page.wait_for_load_state("networkidle")
            wide = visit.page.evaluate("() => document.documentElement.scrollWidth")
            assert wide <= 390, (path, wide)
