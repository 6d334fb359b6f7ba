"""Explore in a real browser: trials that are selected, exports, and values that break other tools."""

from __future__ import annotations

import csv
import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ui.conftest import Dashboard
from ui.seeding import Seeder
from ui.visits import Visit, visiting

LONG = "RandomResizedCrop+HorizontalFlip+ColorJitter+Cutout(16, p=1)"
assert len(LONG) == 60


class Odd(Dashboard):
    """Losses of 0, 1e-12, infinity and NaN; hyperparameters of one value, of long texts, of digits."""

    def some_studies(self, seeder: Seeder, token: int) -> int:
        space = {
            "lr": {"low": 0.0, "high": 1.0},
            "only": {"low": 0.5, "high": 0.5},
            "augmentation": ["none", LONG],
            "patch": ["16", "8", "128"],
        }
        stages = [{"kind": "random", "name": "random", "epochs": 2, "trials": 20}]
        study = seeder.create(name="odd", space=space, stages=stages, fixed={})
        seeder.register(token)
        for i in range(12):
            seeder.propose(
                study, "random", i, 2, lr=[0.0, 1e-12, 0.1, 1.0][i % 4], only=0.5,
                augmentation=("none", LONG)[i % 2], patch=("16", "8", "128")[i % 3],
            )  # fmt: skip
        for i in range(11):
            lease = seeder.claim()
            last = {0: 0.0, 1: 1e-12, 2: math.inf, 3: math.nan}.get(i, 0.1 * i)
            seeder.report(lease, [(1, {"val/loss": 2.3, "train/loss": 2.0}), (2, {"val/loss": last})])
            seeder.finish(lease, *(("complete", "budget") if math.isfinite(last) else ("pruned", "diverged")))
        return study


@pytest.fixture(scope="module")
def odd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Odd]:
    served = Odd(tmp_path_factory.mktemp("odd"))
    yield served
    served.process.kill()


def saved(page: Any, link: str, to: Path) -> Path:
    with page.expect_download() as started:
        page.get_by_role("link", name=link, exact=True).click()
    file = to / started.value.suggested_filename
    started.value.save_as(file)
    return file


def numbers(page: Any) -> list[int]:
    """Of the trials that the table shows, in order."""
    return [int(row.get_attribute("data-trial")) for row in page.locator("#rows tr[data-trial]").all()]


def test_an_export_is_what_the_table_shows(visit: Visit, dashboard: Dashboard, tmp_path: Path) -> None:
    """Browser test 20."""
    from playwright.sync_api import expect

    page = visit.page
    page.goto(
        f"/ui/studies/{dashboard.study}/explore?filter=stage:coarse&sort=value&columns=lr,value,optimizer"
    )
    page.locator("#filter").fill("stage:coarse state:complete lr<0.1")
    page.get_by_role("button", name="Pick").click()
    expect(page.locator("#trials [data-total]")).to_have_text("12 picked of 36")
    rows = numbers(page)
    shown = [row.locator("td").all_inner_texts() for row in page.locator("#rows tr").all()]
    head, *written = csv.reader(saved(page, "CSV", tmp_path).read_text().splitlines())
    assert head == ["number", "lr", "val/loss", "optimizer"]
    assert [int(r[0]) for r in written] == rows
    for cells, row in zip(shown, written, strict=True):
        assert [float(cells[2]), cells[4]] == [float(row[1]), row[3]]
        assert float(cells[3]) == pytest.approx(float(row[2]), abs=5e-5)  # four digits there, all here
    pq = pytest.importorskip("pyarrow.parquet")
    table = pq.read_table(saved(page, "Parquet", tmp_path))
    assert (table.num_rows, table["number"].to_pylist()) == (12, rows)


def test_selected_trials_stand_in_the_address_and_become_a_filter(
    visit: Visit, dashboard: Dashboard, chromium: Any
) -> None:
    """Browser test 9, its selection."""
    from playwright.sync_api import expect

    page = visit.page
    page.goto(f"/ui/studies/{dashboard.study}/explore")
    page.get_by_label("Select trial #31", exact=True).check()
    page.get_by_label("Select trial #24", exact=True).press("Space")
    bar = page.get_by_role("region", name="Selected trials")
    expect(bar).to_contain_text("2 selected")
    compared = f"compare?trials={dashboard.study}:31,{dashboard.study}:24"
    expect(bar.get_by_role("link", name="Compare")).to_have_attribute("href", re.compile(re.escape(compared)))
    page.get_by_role("link", name="lr", exact=True).click()  # another order keeps them
    expect(page.get_by_role("columnheader", name="lr")).to_have_attribute("aria-sort", "ascending")
    expect(page.get_by_label("Select trial #24", exact=True)).to_be_checked()
    with visiting(dashboard, chromium) as other:
        other.page.goto(page.url)
        expect(other.page.get_by_role("region", name="Selected trials")).to_contain_text("2 selected")
        expect(other.page.get_by_label("Select trial #31", exact=True)).to_be_checked()
        expect(other.page.get_by_label("Select trial #30", exact=True)).not_to_be_checked()
    bar.get_by_role("button", name="Show only these").click()
    expect(page.locator("#filter")).to_have_value("number:31,24")
    expect(page.locator("#rows tr")).to_have_count(2)
    bar.get_by_role("button", name="Clear selection").click()
    expect(bar).to_be_hidden()


def test_values_that_break_other_tools_are_shown_sorted_and_exported(
    odd: Odd, chromium: Any, tmp_path: Path
) -> None:
    """Browser test 25."""
    from playwright.sync_api import expect

    with visiting(odd, chromium) as visit:
        page = visit.page
        page.goto(f"/ui/studies/{odd.study}/explore?sort=number&columns=value,lr,only,augmentation,patch")
        for chart in ("parallel", "slices"):
            page.locator(f"[data-chart={chart}]").scroll_into_view_if_needed()  # drawn when it is seen
            drawn = page.locator(f"[data-chart={chart}]:not([data-shown='0'])[data-shown]")
            expect(drawn).to_be_visible()
        rows = [row.locator("td").all_inner_texts() for row in page.locator("#rows tr").all()]
        assert [rows[0][2], rows[1][2], rows[2][2]] == ["0", "1.000e-12", "–"]
        assert rows[1][3:7] == ["1e-12", "0.5", LONG, "8"]
        page.get_by_role("link", name="patch", exact=True).click()
        expect(page.get_by_role("columnheader", name="patch")).to_have_attribute("aria-sort", "ascending")
        expect(page.locator("#rows tr").first).to_have_attribute("data-trial", "1")
        patches = [r.locator("td").all_inner_texts()[6] for r in page.locator("#rows tr").all()]
        assert patches == ["8"] * 4 + ["16"] * 4 + ["128"] * 4  # by size, not as texts
        page.locator("#filter").fill(f'augmentation:"{LONG}" val_loss<=1e-12')
        page.get_by_role("button", name="Pick").click()
        expect(page.locator("#rows tr")).to_have_count(1)
        page.get_by_label("differences only").check()
        page.locator("#filter").fill("")
        page.get_by_role("button", name="Pick").click()
        expect(page.get_by_role("columnheader", name="only")).to_have_count(0)  # one value is no difference
        head, *written = csv.reader(saved(page, "CSV", tmp_path).read_text().splitlines())
        assert head == ["number", "val/loss", "lr", "augmentation", "patch"]
        values = {int(r[0]): r[1] for r in written}
        assert [float(values[0]), float(values[1]), values[2]] == [0.0, 1e-12, ""]
        page.goto(f"/ui/studies/{odd.study}")
        page.locator("[data-chart=history]").scroll_into_view_if_needed()
        expect(page.locator("[data-chart=history][data-shown='9']")).to_be_visible()


def test_it_fits_a_phone(visit: Visit, dashboard: Dashboard) -> None:
    page = visit.page
    page.set_viewport_size({"width": 390, "height": 844})
    page.goto(f"/ui/studies/{dashboard.study}/explore?pick=31,24")
    page.locator("[data-chart=slices][data-shown]").wait_for()
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
