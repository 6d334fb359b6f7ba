"""Trials that measure: they end without a value, rank nowhere, and evaluate other trials' snapshots."""

from __future__ import annotations

from typing import Any

import pytest
from factories import WORK, Bench, Grant, sha256, stage
from sqlalchemy import insert, update
from sqlalchemy.exc import DBAPIError
from tunesmith_service import commands as c
from tunesmith_service import db, event_log, overviews, store, tables, trial_store
from tunesmith_service.errors import Unprocessable
from tunesmith_studies.log import StudyLog

MEASURE = WORK | {"kind": "preflight"}


def measured(bench: Bench, study: int, **changed: Any) -> Grant:
    bench.trial(study, work=MEASURE | changed)
    return bench.claim()


def evaluation(*members: tuple[int, int]) -> dict[str, Any]:
    return WORK | {"kind": "evaluate", "members": [{"trial": t, "step": s} for t, s in members]}


def trained(bench: Bench, study: int, *losses: float) -> Grant:
    """A complete trial that left a snapshot of each step."""
    bench.trial(study, work=WORK | {"keep_snapshot": True})
    grant = bench.claim()
    bench.report(grant, 1, *losses)
    for step in range(1, len(losses) + 1):
        bench.snapshot(grant, step)
    bench.finish(grant)
    return grant


def test_a_trial_that_measures_is_complete_without_a_value(bench: Bench) -> None:
    study = bench.study()
    grant = measured(bench, study)
    bench.do(c.Report(grant.lease, 1, ((1, {"check/initial_loss": 2.3}),)))
    assert bench.finish(grant) == c.Ended("complete", "budget")
    row = bench.row(study, grant.number)
    assert (row.state, row.value, row.kind) == ("complete", None, "preflight")


def test_a_trial_that_measures_needs_no_report_at_all(bench: Bench) -> None:
    grant = measured(bench, bench.study())
    assert bench.finish(grant) == c.Ended("complete", "budget")


def test_a_trial_that_trains_must_still_report_its_objective(bench: Bench) -> None:
    study = bench.study()
    bench.trial(study)
    assert bench.finish(bench.claim()) == c.Ended("failed", "error")


@pytest.mark.parametrize(("kind", "value"), [("train", None), ("preflight", 0.5)])
def test_the_database_refuses_a_value_where_none_belongs(
    bench: Bench, kind: str, value: float | None
) -> None:
    study = bench.study()
    grant = measured(bench, study)
    t = tables.trials
    ends = {
        "state": "complete", "stop_reason": "budget", "lease_hash": None, "lease_expires_us": None,
        "kind": kind, "value": value,
    }  # fmt: skip
    with (
        pytest.raises(DBAPIError, match="ck_trials_value"),
        db.writing(bench.engine).begin() as conn,
    ):
        conn.execute(update(t).where(t.c.id == grant.trial_id).values(ends))


def test_what_measures_is_in_no_ranking(bench: Bench) -> None:
    study = bench.study()
    first = trained(bench, study, 0.5)
    bench.finish(measured(bench, study))
    with bench.engine.connect() as conn:
        row = store.find_study(conn, 1, str(study))
        assert row is not None
        ranked = [
            trial_store.best_trials(conn, row, limit=10),
            overviews.stage_bests(conn, row),
            trial_store.trials(conn, row, sort="value", filter="value:.."),
        ]
    assert [[t.number for t in each] for each in ranked] == [[first.number]] * len(ranked)


def test_a_fold_is_in_the_order_of_its_own_stage_alone(bench: Bench) -> None:
    """It is judged on other samples, so that its value says nothing beside the others'."""
    study = bench.study(stages=[stage(), stage("folds", kind="cross_validation")])
    first = trained(bench, study, 0.5)
    bench.do(c.EndStage(study, "random", {"ranking": [], "why": "Over."}, bench.event_n(study)))
    bench.trial(study, stage="folds")
    fold = bench.claim()
    bench.report(fold, 1, 0.1)
    bench.finish(fold)
    with bench.engine.connect() as conn:
        row = store.find_study(conn, 1, str(study))
        assert row is not None
        everywhere = trial_store.best_trials(conn, row, limit=10)
        among_folds = trial_store.best_trials(conn, row, stage="folds", limit=10)
    assert [t.number for t in everywhere] == [first.number]
    assert [t.number for t in among_folds] == [fold.number]


def test_the_snapshot_of_what_measured_is_not_kept_as_a_best_one(bench: Bench) -> None:
    study = bench.study(keep_best=5)
    best = trained(bench, study, 0.5)
    grant = measured(bench, study)
    bench.snapshot(grant, 1)
    bench.finish(grant)
    bench.do(c.MoveStudy(study, "stopped", "test", "done"))
    bench.seconds(1)
    bench.do(c.ForgetBlobs(bench.clock.now_us()))
    with bench.engine.connect() as conn:
        kept = [trial_store.snapshots(conn, g.trial_id)[0].forgotten_us for g in (best, grant)]
    assert kept[0] is None
    assert kept[1] is not None


def test_planning_sees_what_was_measured_and_ranks_it_nowhere(bench: Bench) -> None:
    study = bench.study()
    bench.finish(measured(bench, study, options={"samples": 4}))
    with bench.engine.connect() as conn:
        entries = event_log.entries_since(conn, study, 0)
    log = StudyLog(bench.study_row(study).spec)
    for entry in entries:
        log.apply(entry)
    (trial,) = log.trials("random")
    assert (trial.work.kind, trial.work.options, trial.value) == ("preflight", {"samples": 4}, None)


# --- members --------------------------------------------------------------------------------------


def test_an_evaluation_is_granted_its_members_in_order(bench: Bench) -> None:
    study = bench.study()
    first, second = trained(bench, study, 0.5, 0.4), trained(bench, study, 0.6)
    bench.trial(study, work=evaluation((second.number, 1), (first.number, 2), (first.number, 1)))
    slot = bench.register()[0]
    claim = bench.ask(slot)
    grant = bench.granted(claim, bench.do(claim))
    wanted = [(second, 1), (first, 2), (first, 1)]
    assert [m["sha256"] for m in grant.work["members"]] == [
        sha256(f"{g.trial_id}/{g.attempt}/{step}") for g, step in wanted
    ]
    assert [m["step"] for m in grant.work["members"]] == [1, 2, 1]
    assert bench.granted(claim, bench.do(claim)).work == grant.work, "a repeated claim"


def test_members_have_left_snapshots_when_they_are_proposed(bench: Bench) -> None:
    study = bench.study()
    first = trained(bench, study, 0.5)
    told = bench.propose(study, "e", work=evaluation((first.number, 1), (first.number, 7)))
    assert isinstance(told, Unprocessable)
    assert f"snapshot of trial {first.number} at step 7" in told.detail


def test_members_whose_bytes_are_gone_are_refused(bench: Bench) -> None:
    study = bench.study(keep_best=0)
    bench.trial(study)
    grant = bench.claim()
    bench.report(grant, 1, 0.5)
    bench.snapshot(grant, 1)
    bench.finish(grant)
    bench.seconds(1)
    bench.do(c.ForgetBlobs(bench.clock.now_us()))
    told = bench.propose(study, "e", work=evaluation((grant.number, 1)))
    assert isinstance(told, Unprocessable)


def test_an_evaluation_may_fetch_each_of_its_members_and_nothing_else(bench: Bench) -> None:
    study = bench.study()
    first, second = trained(bench, study, 0.5), trained(bench, study, 0.6)
    bench.trial(study, work=evaluation((first.number, 1)))
    grant = bench.claim()
    theirs = {g.number: sha256(f"{g.trial_id}/{g.attempt}/1") for g in (first, second)}
    with bench.engine.connect() as conn:
        assert trial_store.may_fetch(conn, grant.lease, theirs[first.number])
        assert not trial_store.may_fetch(conn, grant.lease, theirs[second.number])
    bench.finish(grant)
    with bench.engine.connect() as conn:
        assert not trial_store.may_fetch(conn, grant.lease, theirs[first.number]), "its lease is over"


def test_members_keep_their_snapshots_until_they_are_evaluated(bench: Bench) -> None:
    study = bench.study(keep_best=0)
    bench.trial(study)  # not told to keep its snapshot: only its being a member does
    first = bench.claim()
    bench.report(first, 1, 0.5)
    bench.snapshot(first, 1)
    bench.finish(first)
    bench.trial(study, work=evaluation((first.number, 1)))
    forget(bench)
    assert bytes_of(bench, first), "while the evaluation waits"
    grant = bench.claim()
    forget(bench)
    assert bytes_of(bench, first), "while it runs"
    bench.finish(grant)
    forget(bench)
    assert not bytes_of(bench, first)


def forget(bench: Bench) -> None:
    bench.seconds(1)
    bench.do(c.ForgetBlobs(bench.clock.now_us()))


def bytes_of(bench: Bench, grant: Grant) -> bool:
    with bench.engine.connect() as conn:
        return any(s.forgotten_us is None for s in trial_store.snapshots(conn, grant.trial_id))


def test_a_member_is_a_snapshot_that_stands_in_the_database(bench: Bench) -> None:
    study = bench.study()
    number = bench.trial(study)
    row = bench.row(study, number)
    with pytest.raises(DBAPIError), db.writing(bench.engine).begin() as conn:
        conn.execute(insert(tables.members).values(trial_id=row.id, place=0, snapshot_id=999))
