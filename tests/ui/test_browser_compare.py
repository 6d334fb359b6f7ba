"""Comparing in a real browser: trials, seeds, matrices, stages and studies."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from typing import Any

import pytest
from tunesmith_service import commands
from tunesmith_service.cli import comparing, text
from ui.seeding import Seeder, metrics
from ui.tried import SPACE, Tried
from ui.visits import visiting

SEEDS = {0.02: (0.40, 0.42, 0.44), 0.05: (0.50, 0.53, 0.53)}
"""Values by rate of three seeds each."""


class Compared(Tried):
    """Beside the study of `Tried`: one of the same objective with repeated seeds, and one of another."""

    def some_studies(self, seeder: Seeder, token: int) -> int:
        study = super().some_studies(seeder, token)
        stages = [{"kind": "random", "name": "seeds, three", "epochs": 3, "trials": 9}]
        self.seeded = seeder.create(name="seeded", space=SPACE, stages=stages)
        for lr, values in SEEDS.items():
            for seed, value in enumerate(values):
                self.trained(seeder, self.seeded, "seeds, three", lr=lr, seed=seed, end=metrics(value))
        objective = {"metric": "val/accuracy", "direction": "maximize"}
        self.accurate = seeder.create(name="accurate", space=SPACE, stages=stages, objective=objective)
        for seed, value in enumerate((0.5, 0.6)):
            end = {"val/accuracy": value, "val/loss": 1 - value}
            self.trained(seeder, self.accurate, "seeds, three", lr=0.01, seed=seed, end=end)
        return study

    def trained(
        self, seeder: Seeder, study: int, stage: str, *, lr: float, seed: int, end: dict[str, float]
    ) -> None:
        params = {"lr": lr, "weight_decay": 1e-4, "optimizer": "adam", "batch_size": 64}
        work = {"epochs": 3, "seed": seed}
        seeder.do(commands.Propose(study, stage, f"{lr}/{seed}", seed, params, work, None, {}, 0, False))
        lease = seeder.claim()
        seeder.report(lease, [(e, {n: v + 0.1 * (3 - e) for n, v in end.items()}) for e in (1, 2, 3)])
        seeder.finish(lease)


@pytest.fixture(scope="module")
def compared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Compared]:
    served = Compared(tmp_path_factory.mktemp("compared"))
    yield served
    served.process.kill()


@pytest.fixture
def page(compared: Compared, chromium: Any) -> Iterator[Any]:
    with visiting(compared, chromium) as visit:
        yield visit.page


def option(page: Any, card: str) -> Any:
    return page.evaluate(
        """(card) => {
            const chart = echarts.getInstanceByDom(document.querySelector(`${card} .chart`));
            return chart.getOption().series.map((s) => ({
                name: s.name, type: s.type, color: s.lineStyle && s.lineStyle.color, data: s.data,
            }));
        }""",
        card,
    )


def swatch_colours(page: Any) -> list[str]:
    stroke = "(found) => found.map((line) => getComputedStyle(line).stroke)"
    return list(page.locator(".swatch line").evaluate_all(stroke))


def cells(page: Any, name: str) -> list[str]:
    """The texts of a row of the table."""
    row = page.locator("tr", has=page.get_by_role("rowheader", name=name, exact=True))
    return [" ".join(text.split()) for text in row.locator("td").all_inner_texts()]


# --- trials -------------------------------------------------------------------------------------------


def test_two_trials_show_what_differs_and_their_curves_in_the_same_colours(
    page: Any, compared: Compared
) -> None:
    """Browser test 17."""
    from playwright.sync_api import expect

    page.goto(f"/ui/compare?trials={compared.study}:0,{compared.study}:1")
    expect(page.get_by_role("rowheader", name="lr", exact=True)).to_be_visible()
    expect(page.get_by_role("rowheader", name="optimizer")).to_have_count(0)
    card = page.locator("#curves-1")
    card.scroll_into_view_if_needed()
    expect(card).to_have_attribute("data-shown", "4")  # validation and training of each
    lines = [s["color"] for s in option(page, "#curves-1")]
    swatches = page.locator(".swatch line").evaluate_all(
        "(found) => found.map((l) => getComputedStyle(l).stroke)"
    )
    assert lines == [swatches[0], swatches[0], swatches[1], swatches[1]]
    page.get_by_role("link", name="everything").click()
    expect(page.get_by_role("rowheader", name="optimizer")).to_be_visible()


def test_trials_of_different_objectives_stand_in_panels_of_their_own(page: Any, compared: Compared) -> None:
    """Browser test 17, its second half."""
    from playwright.sync_api import expect

    page.goto(f"/ui/compare?trials={compared.study}:0,{compared.accurate}:0")
    expect(page.get_by_text("2 objectives, which have no axis in common")).to_be_visible()
    expect(page.locator("[data-chart=compared]")).to_have_count(2)
    expect(page.get_by_role("rowheader", name="study", exact=True)).to_be_visible()


def test_trials_that_differ_by_their_seed_alone_have_a_mean_and_its_interval(
    page: Any, compared: Compared
) -> None:
    named = ",".join(f"{compared.seeded}:{n}" for n in range(6))
    page.goto(f"/ui/compare?trials={named}")
    rows = page.locator("table.seeds tbody tr")
    first, second = (" ".join(text.split()) for text in rows.all_inner_texts())
    # of 0.40, 0.42, 0.44: t of two degrees of freedom is 4.303, so 0.42 ± 4.303 · 0.02 / √3
    assert first.endswith("0.4200 ± 0.02000 (3 seeds) 0.3703 to 0.4697 –")
    # differences by seed 0.10, 0.11, 0.09: their standard error is 0.00577
    assert second.endswith("+0.1000 over 3 seeds that both have: told apart")
    answer = compared.api("GET", f"/compare?trials={named}").json()
    assert [r["n"] for r in answer["repeats"]] == [3, 3]
    assert answer["repeats"][1]["to_first"]["tie"] is False
    assert "0.42 ± 0.02 (3 seeds), its mean within 0.3703 to 0.4697 with 95 %" in comparing.side_by_side(
        answer, every=False
    )
    alone = compared.api("GET", f"/compare?trials={compared.study}:0,{compared.study}:1").json()
    assert alone["repeats"] == [], "other rates are no repetition"


def test_the_difference_of_two_matrices_is_drawn_and_a_cell_leads_to_samples(
    page: Any, compared: Compared
) -> None:
    """Browser test 15, its second third."""
    from playwright.sync_api import expect

    study = compared.study
    page.goto(f"/ui/compare?trials={study}:0,{study}:1,{study}:2")
    card = page.locator("#confusion")
    card.scroll_into_view_if_needed()
    expect(card.locator(".said")).to_contain_text("Shown: row % of #1 minus that of #0.")
    [drawn] = option(page, "#confusion")
    values = {(d["value"][1], d["value"][0]): d["value"][2] for d in drawn["data"]}
    # 25 of 36 samples right instead of 32
    assert values[0, 0] == pytest.approx(100 * (25 - 32) / 36)
    assert values[0, 1] == pytest.approx(100 * (11 - 4) / 36)
    card.get_by_label("Taken for").select_option("1")
    card.get_by_role("button", name="Show samples").click()
    expect(page.locator("#cell")).to_contain_text("True class 0, taken for 1")
    expect(page.locator("#cell figure")).to_have_count(3)
    card.get_by_role("button", name="#2 − #0").click()
    expect(card.locator("[data-note]")).to_have_text(
        "#0 and #2 were judged on different classes, so nothing can be taken away"
    )


def test_trials_without_two_matrices_have_no_difference(page: Any, compared: Compared) -> None:
    from playwright.sync_api import expect

    page.goto(f"/ui/compare?trials={compared.study}:0,{compared.study}:5")
    expect(page.locator("#curves-1")).to_be_visible()
    expect(page.locator("#confusion")).to_have_count(0)


# --- stages and studies -------------------------------------------------------------------------------


def test_stages_show_their_best_their_space_and_how_their_values_lie(page: Any, compared: Compared) -> None:
    from playwright.sync_api import expect

    page.goto(f"/ui/studies/{compared.study}")
    page.get_by_role("link", name="Compare the stages").click()
    expect(page.get_by_label("Stages")).to_have_value(f"{compared.study}:search,{compared.study}:branches")
    page.wait_for_load_state()  # the table stands below
    first, second = cells(page, "best val/loss")
    assert second == f"0.3530 {0.353 - float(first):.4f}0"
    assert cells(page, "complete") == ["12", "13 +1"]
    assert cells(page, "pruned by comparison") == ["4", "0 -4"]
    rates = cells(page, "lr")
    assert rates[0] == "0.001 to 0.6"
    assert rates[1] == "0.01 0 %"
    edf = page.locator("#edf-1")
    edf.scroll_into_view_if_needed()
    expect(edf).to_have_attribute("data-shown", "2")
    search, branches = option(page, "#edf-1")
    assert [len(search["data"]), len(branches["data"])] == [13, 14], "they rise from 0"
    assert search["data"][-1][1] == pytest.approx(12 / 16), "four were pruned and never got anywhere"
    assert branches["data"][-1][1] == 1
    expect(edf.locator(".said")).to_contain_text("tried search (4 of 16)")
    swatches = page.locator(".swatch line").evaluate_all(
        "(found) => found.map((l) => getComputedStyle(l).stroke)"
    )
    assert [search["color"], branches["color"]] == swatches


def test_more_than_twenty_curves_are_bands(page: Any, compared: Compared) -> None:
    from playwright.sync_api import expect

    page.goto(f"/ui/compare?stages={compared.study}:search,{compared.study}:branches")
    card = page.locator("#curves-1")
    card.scroll_into_view_if_needed()
    expect(card).to_have_attribute("data-shown", "6")
    assert {s["type"] for s in option(page, "#curves-1")} == {"line"}
    card.get_by_role("button", name="all", exact=True).click()
    expect(card).to_have_attribute("data-shown", "2")
    expect(card.locator(".said")).to_contain_text("More than 20 curves")
    series = option(page, "#curves-1")
    assert [s["type"] for s in series] == ["custom", "line", "custom", "line"]
    assert [s["name"] for s in series[1::2]] == ["tried search", "tried branches"]
    card.locator("summary").click()
    expect(card.get_by_role("columnheader", name="lower quarter")).to_be_visible()


def test_studies_are_chosen_and_each_objective_has_panels_of_its_own(page: Any, compared: Compared) -> None:
    """Browser test 17 for studies: different metrics, different panels."""
    from playwright.sync_api import expect

    page.goto("/ui/studies")
    page.get_by_role("link", name="compare studies").click()
    for name in ("tried", "seeded", "accurate"):
        page.get_by_label(name, exact=True).check()
    page.get_by_role("button", name="Compare").click()
    expect(page.get_by_text("2 objectives, which have no axis in common")).to_be_visible()
    expect(page.locator("[data-chart=edf]")).to_have_count(2)
    expect(page.locator("[data-chart=compared]")).to_have_count(2)
    # newest first, as they are offered
    assert cells(page, "best val/loss")[0] == "–"
    assert cells(page, "best val/accuracy")[1:] == ["–", "–"]
    swatches = swatch_colours(page)
    for card, colours in (("#edf-1", swatches[:1]), ("#edf-2", swatches[1:])):
        page.locator(card).scroll_into_view_if_needed()
        expect(page.locator(card)).to_have_attribute("data-shown", str(len(colours)))
        assert [s["color"] for s in option(page, card)] == colours
    [accurate] = option(page, "#edf-1")
    assert accurate["data"] == [[0.6, 0], [0.6, 0.5], [0.5, 1]], (
        "higher is better, so the best is on the right"
    )
    expect(page.get_by_label("seeded", exact=True)).to_be_checked()


def test_what_has_no_axis_in_common_is_never_drawn_on_one(compared: Compared) -> None:
    both = f"{compared.seeded},{compared.accurate}"
    answer = compared.ask(
        "GET",
        f"/api/v1/compare/views/edf?studies={both}",
        headers={"Authorization": f"Bearer {compared.operator}"},
    )
    assert answer.status_code == 422
    assert "val/loss (minimize) and val/accuracy (maximize) have no axis in common" in answer.json()["detail"]


@pytest.mark.parametrize(
    ("query", "told"),
    [
        ("stages=1:nowhere", "study tried has no stage 'nowhere'"),
        ("stages=1", "'1' names no stage; write study and stage"),
        ("studies=9", "there is no study 9"),
    ],
)
def test_what_cannot_be_compared_is_told_above_the_form(page: Any, query: str, told: str) -> None:
    from playwright.sync_api import expect

    page.goto(f"/ui/compare?{query}")
    expect(page.get_by_role("alert")).to_contain_text(told)


def test_the_api_says_of_stages_what_the_page_says_and_of_a_name_with_a_comma_too(
    compared: Compared,
) -> None:
    named = f'"{compared.seeded}:seeds, three",{compared.study}:search'
    answer = compared.api("GET", "/compare", params={"stages": named}).json()
    assert [g["stage"] for g in answer["stages"]] == ["seeds, three", "search"]
    [looked] = [row["tried"] for row in answer["space"] if row["name"] == "lr"]
    assert looked[0] == {"text": "0.02 to 0.05", "values": 2, "share": None}
    assert looked[1]["share"] == pytest.approx(100 * math.log(600) / math.log(2.5), abs=0.1)
    told = comparing.groups(answer, "stages")
    assert "seeded seeds, three" in told.splitlines()[0]
    assert f"({text.value(looked[1]['share'])} %)" in told
    json.dumps(answer, allow_nan=False)
