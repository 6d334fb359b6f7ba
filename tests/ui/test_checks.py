"""What a person sees of checks: findings, a blocked study, range tests, reads of the test set."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from tunesmith_service import commands, event_log
from ui.conftest import Dashboard, csrf
from ui.seeding import SPEC, Seeder
from ui.test_browser import visiting

PICTURE = b"<svg onload=alert(1)>"
PARAMS = {"lr": 0.01, "weight_decay": 1e-4, "optimizer": "adam", "batch_size": 64}
SUGGESTION = {"given": {"optimizer": "adam"}, "lr": 0.0024, "low": 0.004, "high": 0.04, "max": 0.16}
FINDINGS: list[dict[str, Any]] = [
    {
        "kind": "spread", "level": "pass", "sentence": "Two seeds suggest the same rate.",
        "rule": "within × 3", "next_step": "", "numbers": {"spread": 1.1}, "trials": [0],
    },
    {
        "kind": "summed", "level": "fail", "sentence": "The loss is <b>32 times</b> log(10): a sum.",
        "rule": "within 20 % of log C", "next_step": "Average it over the batch.",
        "numbers": {"loss": 73.7, "by_batch": [72.1, 75.3]}, "trials": [],
    },
]  # fmt: skip
RESULT = {
    "ranking": [], "why": "The first loss is 32 times log(10).", "chosen": {"suggestions": [SUGGESTION]},
    "numbers": {"forecast": {"coarse": {"seconds": 7200.0}}}, "failed": True, "findings": FINDINGS,
    "blocks": True,
}  # fmt: skip

CONCLUDED = {
    "ranking": [{"trial": 0, "value": 0.1238}], "why": "The run without 1cycle stays.",
    "chosen": {"params": {"lr": 0.05, "batch_size": 64}, "epochs": 1},
    "numbers": {"honest": {"mean": 0.215, "values": {str(seed): 0.215 for seed in range(5)}}},
}  # fmt: skip


class Checked(Dashboard):
    """A study whose range test was worked off and blocks it, and two reads of the test set."""

    def some_studies(self, seeder: Seeder, token: int) -> int:
        coarse = SPEC["stages"][0]
        range_test = {"kind": "lr_range_test", "name": "range", "epochs": 1, "steps": 300}
        study = seeder.create(name="checked", stages=[range_test, coarse], task="images")
        seeder.register(token)
        for i in range(2):
            self.sweep(seeder, study, i)
        for _ in range(2):
            self.read_the_test_set(seeder, study)
        with seeder.engine.connect() as conn:
            seen = event_log.page(conn, study, 0, 1000)[-1].n
        assert seeder.do(commands.EndStage(study, "range", RESULT, seen))
        self.concluded = self.a_concluded_one(seeder)
        return study

    def a_concluded_one(self, seeder: Seeder) -> int:
        """A study whose final stage chose another configuration than its luckiest trial's."""
        stages = [{"kind": "final", "name": "final", "epochs": 1}]
        study = seeder.create(name="concluded", stages=stages, task="images")
        work = {"epochs": 1, "seed": 0}
        seeder.do(commands.Propose(study, "final", "seed:0", 0, PARAMS, work, None, {}, 0, False))
        lease = seeder.claim()
        seeder.report(lease, [(1, {"val/loss": 0.1238})])
        seeder.finish(lease)
        with seeder.engine.connect() as conn:
            seen = event_log.page(conn, study, 0, 1000)[-1].n
        assert seeder.do(commands.EndStage(study, "final", CONCLUDED, seen))
        return study

    def sweep(self, seeder: Seeder, study: int, ordinal: int) -> None:
        work = {"epochs": 1, "seed": ordinal, "kind": "range_test"}
        self.propose(seeder, study, f"sweep-{ordinal}", work)
        lease = seeder.claim()
        rates = [1e-5 * 1.15**i for i in range(90)]
        points = [
            (i + 1, {"train/loss": 2.3 - 0.02 * i if i < 60 else 1.1 + 0.1 * (i - 60), "sys/lr": rate})
            for i, rate in enumerate(rates)
        ]
        seeder.report(lease, points)
        digest = seeder.blobs.put_bytes(PICTURE)
        seeder.do(commands.CommitArtifact(lease, "plots/<b>.svg", digest, len(PICTURE)))
        seeder.finish(lease)

    def read_the_test_set(self, seeder: Seeder, study: int) -> None:
        work = {"epochs": 1, "seed": 0, "kind": "evaluate", "read_test": True}
        self.propose(seeder, study, f"read-{seeder.claims}", work)
        lease = seeder.claim()
        seeder.report(lease, [(1, {"test/accuracy": 0.9})])
        seeder.finish(lease)

    def propose(self, seeder: Seeder, study: int, key: str, work: dict[str, Any]) -> None:
        seeder.do(commands.Propose(study, "range", key, 0, PARAMS, work, None, {}, 0, False))


@pytest.fixture(scope="module")
def checked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Checked]:
    served = Checked(tmp_path_factory.mktemp("checked"))
    yield served
    served.process.kill()


@pytest.fixture(scope="module")
def reader(checked: Checked) -> Iterator[httpx.Client]:
    with checked.login() as client:
        yield client


def test_findings_stand_by_stage_the_gravest_first_and_as_text(checked: Checked, reader: httpx.Client):
    html = reader.get(f"/ui/studies/{checked.study}/parts/findings").text
    assert "&lt;b&gt;32 times&lt;/b&gt;" in html
    assert html.index("32 times") < html.index("1 checked and sound") < html.index("Two seeds suggest")
    assert "Average it over the batch." in html
    assert html.index("<details>") < html.index("within 20 % of log C") < html.index("[72.1, 75.3]")


def test_a_blocked_study_says_why_and_asks_for_a_reason_instead_of_a_resumption(
    checked: Checked, reader: httpx.Client
):
    html = reader.get(f"/ui/studies/{checked.study}").text
    assert "range keeps this study from going on" in html
    assert "Stage range failed: The first loss is 32 times log(10)." in html
    assert f'hx-post="/ui/studies/{checked.study}/stages/range/override"' in html
    assert "Resume…" not in html
    assert html.count("Stage range failed: ") == 1


def test_beside_the_luckiest_trial_stands_what_the_final_stage_chose(checked: Checked, reader: httpx.Client):
    html = reader.get(f"/ui/studies/{checked.concluded}/parts/best").text
    text = " ".join(re.sub(r"<[^>]*>", "", html).split())
    assert "0.1238" in text
    assert "Chosen by final: lr 0.05, with val/loss 0.2150 by the mean of 5 fresh seeds." in text


def test_a_second_read_of_the_test_set_is_a_warning_on_the_page(checked: Checked, reader: httpx.Client):
    html = reader.get(f"/ui/studies/{checked.study}").text
    assert "Trial #3 (range) was the 2nd of this project to read the test split of task images" in html
    assert "Trial #2 (range) was" not in html
    assert "test set read no. 2" in html


def test_what_a_preflight_measured_says_how_long_a_stage_takes(checked: Checked, reader: httpx.Client):
    html = reader.get(f"/ui/studies/{checked.study}/parts/pipeline").text
    assert "takes about 2 h 00 min, 2 GPU-hours" in html


def test_a_range_test_is_read_sweep_by_sweep_and_the_choice_is_the_stages_own(
    checked: Checked, reader: httpx.Client
):
    view = reader.get(f"/ui/studies/{checked.study}/views/range_test").json()
    assert (view["metric"], view["stage"], view["shown"]) == ("train/loss", "range", 2)
    assert [s["name"] for s in view["sweeps"]] == ["seed 1", "seed 2"]
    assert view["sweeps"][0]["rate"][:2] == pytest.approx([1e-5, 1.15e-5])
    assert len(view["sweeps"][0]["smooth"]) == len(view["sweeps"][0]["loss"]) == 90
    marks = {name: rate for name, (rate, _) in view["sweeps"][0]["marks"].items()}
    assert marks["begun"] < marks["steepest"] < marks["turns up"] < 1e-5 * 1.15**65
    assert marks["suggested"] == pytest.approx((marks["begun"] * marks["turns up"]) ** 0.5, rel=1e-4)
    assert [(c["name"], c["lr"], c["max"]) for c in view["chosen"]] == [("adam", 0.0024, 0.16)]
    assert view["rule"].startswith("valley: ")
    assert view["taken"] == [], "its grid names rates of its own"
    alone = reader.get(f"/ui/studies/{checked.study}/views/range_test?filter=number:1").json()
    assert [s["number"] for s in alone["sweeps"]] == [1]


def test_a_trial_that_measures_shows_what_it_reported_and_no_value(checked: Checked, reader: httpx.Client):
    html = reader.get(f"/ui/studies/{checked.study}/trials/2").text
    assert "measures for its stage; has no value" in html
    assert "<li>1 step</li>" in html
    assert re.search(r"What it measured.*test/accuracy</td>.*>0\.9</data>", html, re.DOTALL)
    assert f'href="/ui/studies/{checked.study}#findings-title"' in html
    assert "data-chart" not in html


def test_artifacts_are_listed_and_come_as_files_that_no_browser_runs(checked: Checked, reader: httpx.Client):
    here = f"/ui/studies/{checked.study}/trials/0"
    html = reader.get(here).text
    assert f'href="{here}/artifacts/plots%2F%3Cb%3E.svg" download>plots/&lt;b&gt;.svg</a>' in html
    got = reader.get(f"{here}/artifacts/plots%2F%3Cb%3E.svg")
    assert (got.status_code, got.content) == (200, PICTURE)
    assert got.headers["content-type"] == "application/octet-stream"
    assert got.headers["content-disposition"].startswith("attachment")
    assert got.headers["content-security-policy"] == "sandbox; default-src 'none'"
    assert reader.get(f"{here}/artifacts/..%2F..%2Fetc%2Fpasswd").status_code == 404


@pytest.mark.parametrize("reason", ["", "   ", "x" * 2001])
def test_an_override_without_a_reason_or_with_a_book_is_refused(
    checked: Checked, reader: httpx.Client, reason: str
):
    page = reader.get(f"/ui/studies/{checked.study}").text
    answer = reader.post(
        f"/ui/studies/{checked.study}/stages/range/override",
        data={"reason": reason},
        headers={"Tunesmith-CSRF": csrf(page), "HX-Request": "true"},
    )
    assert (answer.status_code, "in 1 to 2000 characters" in answer.text) == (422, True)
    assert checked.api("GET", f"/studies/{checked.study}").json()["state"] == "paused"


def test_a_person_overrides_the_check_on_the_page_and_everybody_reads_why(checked: Checked, chromium: Any):
    from playwright.sync_api import expect

    with visiting(checked, chromium) as visit:
        visit.page.goto(f"/ui/studies/{checked.study}")
        visit.page.locator("#range_test").scroll_into_view_if_needed()
        expect(visit.page.locator("#range_test")).to_have_attribute("data-shown", "2")
        visit.page.get_by_text("rule and numbers").first.click()
        expect(visit.page.get_by_text("within 20 % of log C")).to_be_visible()
        visit.page.get_by_label("Why go on").fill("the loss <i>sums</i> on purpose")
        visit.page.get_by_role("button", name="Go on past range").click()
        expect(visit.page.get_by_text("the loss <i>sums</i> on purpose")).to_be_visible()
        expect(visit.page.get_by_label("Why go on")).to_have_count(0)
    stages = checked.api("GET", f"/studies/{checked.study}").json()["stages"]
    assert [s["state"] for s in stages] == ["failed", "active"]
    assert stages[0]["override"]["reason"] == "the loss <i>sums</i> on purpose"
    assert json.loads(json.dumps(stages[0]["result"])) == RESULT, "the verdict stays"
