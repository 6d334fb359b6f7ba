"""A log's decisions made again: differences are found, and none that is not there."""

from __future__ import annotations

import math

import pytest
from contracts import Runner
from tunesmith_studies import decisions
from tunesmith_studies.decisions import ask, differences
from tunesmith_studies.planning import Done, Proposals, StageResult
from tunesmith_studies.study import StudySpec


def grid() -> StudySpec:
    return StudySpec.model_validate(
        {
            "name": "s", "task": "digits", "space": {"lr": {"low": 1e-3, "high": 1.0, "log": True}},
            "stages": [{"kind": "coarse_grid", "epochs": 2, "axes": {"lr": 4}}],
        }
    )  # fmt: skip


def queued_by_two_planners() -> Runner:
    """One planner queues two cells; another, which sees one event more but not those, queues the third."""
    runner = Runner(grid())
    runner.activate("coarse_grid")
    first = runner.ask("coarse_grid", 2)
    seen = runner.log.at
    runner.put("study", state="paused", reason=None)
    second = runner.ask("coarse_grid", 3)
    assert isinstance(first, Proposals)
    assert isinstance(second, Proposals)
    for number, (proposal, at) in enumerate(
        [(first.items[0], seen), (first.items[1], seen), (second.items[2], seen + 1)]
    ):
        runner.put(
            "planned",
            trial=number,
            stage="coarse_grid",
            key=proposal.key,
            ordinal=proposal.ordinal,
            params=dict(proposal.params),
            work=proposal.work.to_json(),
            start=None,
            sampler_state={},
            planned_at=at,
            draft=False,
        )
    return runner


def test_what_two_servers_planned_together_is_decided_again() -> None:
    runner = queued_by_two_planners()
    assert list(differences(runner.spec.to_json(), runner.entries)) == []


def test_a_cell_that_no_planner_proposes_is_a_difference() -> None:
    runner = queued_by_two_planners()
    forged = runner.entries[-1]
    forged.data["key"] = "lr=7"  # type: ignore[index]
    told = list(differences(runner.spec.to_json(), runner.entries))
    assert told == [f"event {forged.n}: coarse_grid does not propose lr=7 at event 2"]


def ended(*losses: float) -> Runner:
    """A grid of four cells, all of which reported these losses and diverged."""
    runner = Runner(grid())
    runner.activate("coarse_grid")
    plan = runner.ask("coarse_grid", 4)
    assert isinstance(plan, Proposals)
    for number, proposal in enumerate(plan.items):
        stage = "coarse_grid"
        given = decisions.proposal_json(proposal)
        runner.put(
            "planned", trial=number, stage=stage, key=proposal.key, ordinal=proposal.ordinal, planned_at=1,
            draft=False, **given,
        )  # fmt: skip
        for to, reason in (("running", None), ("pruned", "diverged")):
            points = [{"step": i + 1, "metrics": {"val/loss": v}} for i, v in enumerate(losses)]
            runner.put("moved", trial=number, stage=stage, to=to, stop_reason=reason, attempt=1)
            if to == "running":
                runner.put("reported", trial=number, stage=stage, attempt=1, seq=1, points=points)
    return runner


def test_a_stage_that_is_done_says_what_its_curves_show() -> None:
    runner = ended(2.3, math.inf)
    plan = ask(runner.log, runner.log.stage("coarse_grid"), 4)
    assert isinstance(plan, Done)
    assert plan.result.findings
    assert StageResult.from_json(plan.result.to_json()) == plan.result


def test_a_diagnosis_that_breaks_takes_no_stage_with_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise ZeroDivisionError("no spread")

    monkeypatch.setattr(decisions, "of_stage", broken)
    runner = ended(2.3, math.inf)
    plan = ask(runner.log, runner.log.stage("coarse_grid"), 4)
    assert isinstance(plan, Done)
    (told,) = plan.result.findings
    assert (told.kind, told.level) == ("diagnosis_failed", "info")
    assert "ZeroDivisionError: no spread" in told.sentence
