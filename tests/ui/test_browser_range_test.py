"""The range test's chart in a real browser, of sweeps that the stage itself planned and judged."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator
from typing import Any

import pytest
from tunesmith_service import commands, event_log, store
from tunesmith_service.ui import formats
from tunesmith_studies import decisions
from tunesmith_studies.log import StudyLog
from tunesmith_studies.planning import Done, Proposal, Proposals
from ui.conftest import Dashboard
from ui.seeding import Seeder
from ui.visits import visiting

SPEC: dict[str, Any] = {
    "space": {"lr": {"low": 1e-4, "high": 1.0, "log": True}, "optimizer": ["momentum", "adam"]},
    "stages": [
        {"kind": "lr_range_test", "name": "range", "steps": 300},
        {
            "kind": "coarse_grid", "name": "coarse", "epochs": 2,
            "axes": {"lr": {"around": "range", "factors": [0.3, 1, 3]}, "optimizer": ["momentum", "adam"]},
        },
        {"kind": "halving", "name": "halving", "epochs": 9, "trials": 9},
    ],
}  # fmt: skip
BOTTOM = {"momentum": 0.2, "adam": 0.02}


class Swept(Dashboard):
    """Two sweeps of each optimizer, a result, and a grid around it, half of it trained."""

    def some_studies(self, seeder: Seeder, token: int) -> int:
        study = seeder.create(name="swept", **SPEC)
        seeder.register(token)
        for proposal in self.planned(seeder, study, "range"):
            self.propose(seeder, study, "range", proposal)
            lease = seeder.claim()
            points = sweep(BOTTOM[str(proposal.params["optimizer"])], seed=proposal.ordinal)
            seeder.report(lease, points)
            seeder.finish(lease)
        log = self.log(seeder, study)
        done = decisions.ask(log, log.stage("range"), 1)
        assert isinstance(done, Done), done
        self.result = done.result
        seen = event_log_end(seeder, study)
        assert seeder.do(commands.EndStage(study, "range", done.result.to_json(), seen))
        for proposal in self.planned(seeder, study, "coarse"):
            self.propose(seeder, study, "coarse", proposal)
        for _ in range(3):
            lease = seeder.claim()
            seeder.train(lease, 0.5, 2)
            seeder.finish(lease)
        return study

    @staticmethod
    def log(seeder: Seeder, study: int) -> StudyLog:
        with seeder.engine.connect() as conn:
            row = store.find_study(conn, None, str(study))
            entries = event_log.entries_since(conn, study, 0)
        assert row is not None
        found = StudyLog(row.spec)
        for entry in entries:
            found.apply(entry)
        return found

    def planned(self, seeder: Seeder, study: int, stage: str) -> tuple[Proposal, ...]:
        log = self.log(seeder, study)
        plan = decisions.ask(log, log.stage(stage), 100)
        assert isinstance(plan, Proposals), plan
        return plan.items

    @staticmethod
    def propose(seeder: Seeder, study: int, stage: str, p: Proposal) -> None:
        given = decisions.proposal_json(p)
        seeder.do(
            commands.Propose(
                study, stage, p.key, p.ordinal, given["params"], given["work"], None, {}, 0, False
            )
        )


def event_log_end(seeder: Seeder, study: int) -> int:
    with seeder.engine.connect() as conn:
        return event_log.page(conn, study, 0, 10_000)[-1].n


def sweep(bottom: float, *, seed: int) -> list[tuple[int, dict[str, float]]]:
    """300 noisy losses that fall over two decades up to `bottom`, then blow up and end as NaN."""
    noise = random.Random(seed)
    points = []
    for i in range(300):
        rate = 1e-5 * 10 ** (i / 50)
        share = min(max(1 + math.log10(rate / bottom) / 2, 0.0), 1.0)
        loss = 2.3 - 1.6 * share + noise.gauss(0, 0.06)
        if rate > bottom:
            loss += 0.4 * ((rate / bottom) ** 2 - 1)
        points.append((i + 1, {"train/loss": loss if loss < 12 else math.nan, "sys/lr": rate}))
        if loss >= 12:
            break
    return points


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Swept]:
    served = Swept(tmp_path_factory.mktemp("swept"))
    yield served
    served.process.kill()


@pytest.fixture
def page(swept: Swept, chromium: Any) -> Iterator[Any]:
    with visiting(swept, chromium) as visit:
        visit.page.goto(f"/ui/studies/{swept.study}")
        visit.page.locator("#range_test").scroll_into_view_if_needed()
        yield visit.page


SERIES = """() => {
    const chart = echarts.getInstanceByDom(document.querySelector("#range_test .chart"));
    return chart.getOption().series.map((s) => [s.name, s.type, s.data, s.lineStyle && s.lineStyle.color]);
}"""


def test_each_sweep_shows_its_losses_smoothed_and_the_three_places_that_were_read(
    page: Any, swept: Swept
) -> None:
    from playwright.sync_api import expect

    expect(page.locator("#range_test")).to_have_attribute("data-shown", "4")
    series = page.evaluate(SERIES)
    names = ["momentum, seed 1", "adam, seed 1", "momentum, seed 2", "adam, seed 2"]
    assert [s[0] for s in series[:12:3]] == names
    assert len({s[3] for s in series[:12]}) == 4, "each sweep has a colour of its own"
    readings = {s["trial"]: s for s in swept.result.numbers["sweeps"]}
    by_name = {s[0]: s[2] for s in series}
    for i in range(4):
        suggested, turn_up = by_name["suggested"][i]["value"][0], by_name["turns up"][i]["value"][0]
        assert suggested == pytest.approx(readings[i]["lr"], rel=1e-4)
        assert turn_up == pytest.approx(readings[i]["max"], rel=1e-4)
        assert suggested / 100 < by_name["steepest"][i]["value"][0] < turn_up
    assert [len(by_name["not finite"]), len(series[0][2]) > 100] == [4, True]


def test_the_choice_and_its_rule_are_told_and_who_took_it(page: Any, swept: Swept) -> None:
    from playwright.sync_api import expect

    said = page.locator("#range_test .said")
    expect(said).to_contain_text(swept.result.why)
    expect(said).to_contain_text("Rule: valley: of the loss, smoothed over the log of the rate")
    lr = {s["given"]["optimizer"]: s["lr"] for s in swept.result.chosen["suggestions"]}
    assert lr["adam"] < lr["momentum"] / 3
    low, high = (formats.number(v, pad=False) for v in (0.3 * lr["adam"], 3 * lr["momentum"]))
    expect(said).to_contain_text(f"Stage coarse took it: its rates go from {low} to {high}.")
    expect(said).to_contain_text("Stage halving will take it.")
    page.locator("#range_test summary").click()
    rows = page.locator("#range_test tbody tr", has_text="steepest")
    expect(rows).to_have_count(4)
    expect(page.locator("#range_test tbody")).to_contain_text("more; export has them all")


def test_a_choice_is_drawn_at_its_rate_however_small(page: Any, swept: Swept) -> None:
    from playwright.sync_api import expect

    expect(page.locator("#range_test")).to_have_attribute("data-shown", "4")
    said = page.evaluate("""() => {
        const chart = echarts.getInstanceByDom(document.querySelector("#range_test .chart"));
        return chart.getZr().storage.getDisplayList(true)
            .filter((drawn) => /^(chosen|largest)/.test(drawn.style.text))
            .map((drawn) => [drawn.style.text, drawn.transform ? drawn.transform[4] : drawn.x]);
    }""")
    assert len(said) == 4, "a chosen rate and a largest one of each optimizer"
    for text, x in said:
        rate = float(text.removeprefix("largest usable").removeprefix("chosen").split()[0])
        at = page.evaluate(
            """(rate) => echarts.getInstanceByDom(document.querySelector("#range_test .chart"))
                .convertToPixel({ xAxisIndex: 0 }, rate)""",
            rate,
        )
        assert abs(x - at) < 20, (text, x, at)


def test_a_sweep_leads_to_its_trial_which_shows_it_alone(page: Any) -> None:
    from playwright.sync_api import expect

    page.locator("#range_test .keys").get_by_role("link", name="#1", exact=True).click()
    page.wait_for_url("**/trials/1")
    card = page.locator("#range_test")
    card.scroll_into_view_if_needed()
    expect(card).to_have_attribute("data-shown", "1")
    expect(card.locator(".keys li")).to_have_count(1)
    expect(card.locator(".said")).to_contain_text("Stage coarse took it")
    chart = "echarts.getInstanceByDom(document.querySelector('#range_test .chart'))"
    lines = page.evaluate(f"{chart}.getOption().series.at(-1).markLine.data.map((line) => line.name)")
    assert [line.split()[-1] for line in lines] == ["adam", "adam"], "the choice for its own optimizer"
