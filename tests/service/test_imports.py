"""Trials that were run elsewhere: brought with their curves and ends, whole or not at all."""

from __future__ import annotations

import math
from typing import Any

import pytest
from factories import T0, Bench, brought, stage
from invariants import look, violations
from sqlalchemy import select
from tunesmith_service import commands as c
from tunesmith_service import event_log, fleet, integrity, spending, tables
from tunesmith_service.clock import SECOND
from tunesmith_service.errors import Conflict, Unprocessable
from tunesmith_service.wishes import ImportTrials
from tunesmith_studies.decisions import ask
from tunesmith_studies.log import StudyLog
from tunesmith_studies.planning import Done, Proposals, Wait

from .conftest import Api, study

OLD = {"kind": "imported", "name": "old", "epochs": 2, "trials": 3, "origin": "a notebook"}
DIVERGED = brought(1, 2.0, math.inf, state="pruned", stop_reason="diverged", value=None)
FAILED = brought(7, state="failed", stop_reason="error", value=None, error="out of memory", points=[])


def bring(bench: Bench, study: int, *trials: dict[str, Any]) -> Any:
    return bench.do(ImportTrials(study, "old", trials, "ann"))


def told(metrics: dict[str, float]) -> dict[str, Any]:
    return {k: "Infinity" if math.isinf(v) else v for k, v in metrics.items()}


DIVERGED["points"] = [p | {"metrics": told(p["metrics"])} for p in DIVERGED["points"]]


def test_what_was_run_elsewhere_is_there_as_it_ended(bench: Bench) -> None:
    study = bench.study(stages=[OLD])
    assert bring(bench, study, brought(0), DIVERGED, FAILED) == 3
    rows = [bench.row(study, n) for n in range(3)]
    assert [(r.key, r.state, r.stop_reason, r.value) for r in rows] == [
        ("import:0", "complete", "budget", 0.25),
        ("import:1", "pruned", "diverged", None),
        ("import:7", "failed", "error", None),
    ]
    assert rows[0].imported == {"number": 0, "attributes": {"who": "ann"}}
    assert (rows[0].started_us, rows[0].ended_us) == (T0 - 2 * SECOND, T0 - SECOND)
    assert (rows[1].step, rows[1].last_metrics) == (1, {"val/loss": "Infinity"})
    assert rows[2].error["message"] == "out of memory"
    counts = bench.study_row(study)
    assert (counts.waiting, counts.running, counts.finished, counts.gpu_us) == (0, 0, 3, 0)


def test_every_invariant_holds_and_the_doctor_finds_nothing(bench: Bench) -> None:
    study = bench.study(stages=[OLD | {"trials": 5}, stage("more")], limits={"max_concurrent": 2})
    bring(bench, study, brought(0), DIVERGED, FAILED)
    bring(bench, study, brought(3, *[0.5] * 1100), brought(4, value=0.125))
    assert violations(look(bench.engine, now_us=bench.clock.now_us())) == []
    assert integrity.examine(bench.engine, None) == []
    reports = select(tables.reports.c.seq).where(tables.reports.c.trial_number == 3)
    assert [r.seq for r in bench.rows(reports)] == [1, 2, 3]


def test_a_trial_that_has_come_is_left_as_it_is(bench: Bench) -> None:
    study = bench.study(stages=[OLD])
    assert bring(bench, study, brought(0)) == 1
    before = bench.event_n(study)
    assert bring(bench, study, brought(0, 0.1)) == 0
    assert (bench.event_n(study), bench.row(study, 0).value) == (before, 0.25)
    assert bring(bench, study, brought(0, 0.1), brought(1)) == 1


@pytest.mark.parametrize(
    ("stages", "limits", "why"),
    [
        ([OLD | {"trials": 1}], {}, "takes 1 trials and has 0; got 2 more"),
        ([stage("old")], {}, "runs its own trials"),
        ([stage(), OLD], {}, "stage old is pending, study study active"),
        ([OLD], {"max_trials": 1}, "may have 1 trials, of which 1 are left; got 2 more"),
    ],
)
def test_what_cannot_come_is_refused_whole(
    bench: Bench, stages: list[Any], limits: dict[str, int], why: str
) -> None:
    study = bench.study(stages=stages, limits=limits)
    refused = bring(bench, study, brought(0), brought(1))
    assert isinstance(refused, Conflict)
    assert why in refused.detail
    assert bench.study_row(study).trial_n == 0


def test_more_metrics_than_a_study_keeps_are_refused_before_anything_is_written(bench: Bench) -> None:
    study = bench.study(stages=[OLD])
    many = {"step": 1, "metrics": {f"m{i}": 0.5 for i in range(300)}}
    refused = bring(bench, study, brought(0), brought(1, points=[many], value=0.5))
    assert isinstance(refused, Unprocessable)
    assert "at most 256 are kept" in refused.detail
    assert bench.study_row(study).trial_n == 0


def log_of(bench: Bench, study: int) -> StudyLog:
    log = StudyLog(bench.study_row(study).spec)
    with bench.engine.connect() as conn:
        for entry in event_log.entries_since(conn, study, 0):
            log.apply(entry)
    return log


def test_the_stage_waits_for_all_of_them_and_ranks_them(bench: Bench) -> None:
    study = bench.study(stages=[OLD])
    bring(bench, study, brought(0), DIVERGED)
    log = log_of(bench, study)
    assert ask(log, log.stage("old"), 5) == Wait("2 of 3 trials have come")
    bring(bench, study, brought(2, 0.125))
    log = log_of(bench, study)
    done = ask(log, log.stage("old"), 5)
    assert isinstance(done, Done)
    assert [(r.trial, r.value) for r in done.result.ranking] == [(2, 0.125), (0, 0.25)]
    assert done.result.why.startswith("3 trials of a notebook. Best is trial 2 with lr=0.1")


def test_a_model_learns_from_them_and_begins_with_the_best(bench: Bench) -> None:
    tpe = {"kind": "sampler", "name": "tpe", "epochs": 2, "trials": 4, "warm_start": 1}
    study = bench.study(stages=[OLD, tpe])
    bring(bench, study, *(brought(n, 0.5, 0.5 - n / 10, params={"lr": 10.0**-n}) for n in range(1, 4)))
    log = log_of(bench, study)
    done = ask(log, log.stage("old"), 5)
    assert isinstance(done, Done)
    bench.do(c.EndStage(study, "old", done.result.to_json(), log.at))
    log = log_of(bench, study)
    sampler = log.stage("tpe")
    plan = ask(log, sampler, 1)
    assert isinstance(plan, Proposals)
    assert plan.items[0].params["lr"] == 1e-3
    told = sampler._told(log.history("tpe"), sampler.open_space(log.study))  # type: ignore[attr-defined]
    assert len(told.earlier) == 3


def test_they_cost_no_slot_and_stand_in_no_lane(bench: Bench) -> None:
    study = bench.study(stages=[OLD])
    bring(bench, study, brought(0), FAILED)
    with bench.engine.connect() as conn:
        assert [cost.slot_us for cost in spending.costs(conn, study, bench.clock.now_us())] == [0]
        assert fleet.attempts_of_study(conn, study, 0, limit=9) == []


# --- the request ----------------------------------------------------------------------------------

TRIAL = {"number": 0, "state": "complete", "value": 0.5, "params": {"lr": 0.1}}


@pytest.mark.parametrize(
    ("changed", "why"),
    [
        ({"value": None}, "it is complete with value None; just complete trials have a value"),
        ({"state": "failed"}, "it is failed with value 0.5"),
        ({"stop_reason": "pruned"}, "it is complete, which goes with budget"),
        ({"value": "NaN"}, "valid number"),
        ({"points": [{"step": s, "metrics": {"m": 1}} for s in (2, 1)]}, "rising order of step"),
        ({"points": [{"step": 1, "metrics": {"test/loss": 1}}]}, "no trial may choose by"),
        ({"started_at": "2026-01-05T09:30:00"}, "times need a zone"),
        ({"ended_at": "2026-01-05T09:30:00Z"}, "it ended at 2026-01-05 09:30:00+00:00 and started at None"),
        ({"attributes": {"a": "x" * 70_000}}, "attributes are 70009 bytes as JSON, of at most 65536"),
    ],
)
def test_a_trial_that_cannot_be_is_told_what_is_wrong(play: Any, changed: dict[str, Any], why: str) -> None:
    async def scene(api: Api) -> None:
        made = await api.post("/studies", json=study(stages=[OLD]))
        assert made.status_code == 201, made.text
        answer = await api.post("/studies/study/import", json={"stage": "old", "trials": [TRIAL | changed]})
        assert answer.status_code == 422
        assert why in answer.text

    play(scene)


def test_a_trial_shows_what_it_was_where_it_was_run(play: Any) -> None:
    async def scene(api: Api) -> None:
        await api.post("/studies", json=study(stages=[OLD]))
        trials = [TRIAL | {"number": 5, "attributes": {"note": "old"}, "started_at": "2026-01-05T09:30:00Z"}]
        body = {"stage": "old", "trials": trials}
        for new in (1, 0):
            answer = await api.post("/studies/study/import", json=body)
            assert (answer.status_code, answer.json()) == (200, {"new": new})
        shown = (await api.call("GET", "/studies/study/trials/0")).json()
        assert shown["imported"] == {"number": 5, "attributes": {"note": "old"}}
        assert (shown["value"], shown["started_at"], shown["worker"]) == (0.5, "2026-01-05T09:30:00Z", None)
        twice = await api.post("/studies/study/import", json={"stage": "old", "trials": [TRIAL, TRIAL]})
        assert (twice.status_code, "trial 0 stands twice" in twice.text) == (422, True)
        entries = (await api.call("GET", "/audit")).json()["items"]
        assert [(e["action"], e["detail"]) for e in entries if e["action"] == "trial.import"] == [
            ("trial.import", {"stage": "old", "trials": 1})
        ]

    play(scene)
