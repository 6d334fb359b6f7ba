"""The reads, and which bytes are kept for them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from factories import DIGEST, PROJECT, Bench, report, sha256, stage
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import update
from tunesmith_service import commands as c
from tunesmith_service import event_log, store, tables, trial_store
from tunesmith_service.clock import JUMP_US, SECOND, ManualClock, SystemClock
from tunesmith_service.db import writing
from tunesmith_studies.log import StudyLog


def read(bench: Bench, query: Callable[..., Any], *args: Any, **more: Any) -> Any:
    with bench.engine.connect() as conn:
        return query(conn, *args, **more)


def completed(bench: Bench, study: int, *losses: float, **changed: Any) -> None:
    """Trials that end with these losses and a snapshot each."""
    slot = bench.register()[0]
    for loss in losses:
        bench.trial(study, **changed)
        grant = bench.claim(slot)
        bench.report(grant, 1, loss)
        bench.snapshot(grant, 1)
        bench.finish(grant)


def test_the_log_is_read_in_pages_without_gaps(bench: Bench) -> None:
    study = bench.study()
    completed(bench, study, 0.3, 0.2)
    whole = read(bench, event_log.entries_since, study, 0)
    assert [e.n for e in whole] == list(range(1, bench.event_n(study) + 1))
    paged = []
    while page := read(bench, event_log.entries_since, study, paged[-1].n if paged else 0, limit=3):
        assert len(page) <= 3
        paged.extend(page)
    assert paged == whole


def test_what_planning_folds_from_the_log_is_what_the_tables_say(bench: Bench) -> None:
    study = bench.study(stages=[stage(), stage("next")])
    completed(bench, study, 0.3, 0.2)
    bench.trial(study, draft=True)
    grant = bench.claim()
    bench.do(report(grant, 1, 0.9, 0.8))
    bench.snapshot(grant, 1)
    bench.expire()
    bench.claim()
    row = read(bench, store.find_study, PROJECT, "study")
    log = StudyLog(row.spec)
    for entry in read(bench, event_log.entries_since, study, 0):
        log.apply(entry)
    for told in log.trials("random"):
        stored = read(bench, trial_store.find_trial, study, told.number)
        assert (told.state, told.value, told.params) == (stored.state, stored.value, stored.params)
        assert list(told.curve) == read(bench, trial_store.curve, stored.id)
    assert [p.step for p in log.trial(2).curve] == [1]
    assert log.at == row.event_n


def test_a_study_is_found_by_name_or_id_within_its_project(bench: Bench) -> None:
    study = bench.study("7")
    assert read(bench, store.find_study, PROJECT, "7").id == study
    assert read(bench, store.find_study, PROJECT, str(study)).name == "7"
    assert read(bench, store.find_study, PROJECT + 1, "7") is None
    assert read(bench, store.find_study, None, "7").id == study


def test_trials_come_in_pages_by_stage_and_state(bench: Bench) -> None:
    study = bench.study()
    completed(bench, study, 0.3, 0.1)
    bench.trial(study)
    row = read(bench, store.find_study, PROJECT, "study")
    assert [t.number for t in read(bench, trial_store.trials, row, limit=2)] == [0, 1]
    assert [t.number for t in read(bench, trial_store.trials, row, after=1)] == [2]
    assert [t.number for t in read(bench, trial_store.trials, row, state="waiting")] == [2]
    assert read(bench, trial_store.trials, row, stage="other") == []
    row = read(bench, store.find_study, PROJECT, "study")
    assert [t.number for t in read(bench, trial_store.best_trials, row, limit=5)] == [1, 0]


def _planned(bench: Bench) -> list[store.PlannedStudy]:
    return read(bench, store.planned_studies, read(bench, store.live_slots))


def test_slots_count_if_their_worker_lives_serves_the_task_and_does_not_drain(bench: Bench) -> None:
    bench.study()
    bench.register(2)
    bench.register(4, tasks={"digits": sha256("edited")})
    draining = bench.register(8)[0]
    bench.do(c.DrainWorker(PROJECT, draining.worker_id, draining=True))
    (planned,) = _planned(bench)
    assert planned.slots == 6
    with writing(bench.engine).begin() as conn:
        conn.execute(update(tables.studies).values(task_digest=DIGEST))
    assert _planned(bench)[0].slots == 2
    bench.seconds(61)
    bench.sweep()
    assert _planned(bench)[0].slots == 0
    assert [w.live for w in read(bench, store.workers, PROJECT)] == [False] * 3


def test_only_the_grants_own_snapshot_may_be_fetched_and_only_while_it_runs(bench: Bench) -> None:
    study = bench.study()
    bench.trial(study)
    first = bench.claim()
    bench.snapshot(first, 1, "weights")
    assert not read(bench, trial_store.may_fetch, first.lease, sha256("weights"))
    bench.expire()
    again = bench.claim()
    assert read(bench, trial_store.may_fetch, again.lease, sha256("weights"))
    assert not read(bench, trial_store.may_fetch, again.lease, sha256("other"))
    assert not read(bench, trial_store.may_fetch, first.lease, sha256("weights"))


# --- retention ------------------------------------------------------------------------------------


def forget(bench: Bench) -> list[str]:
    bench.seconds(1)
    gone = bench.do(c.ForgetBlobs(bench.clock.now_us()))
    assert isinstance(gone, list)
    return gone


def kept(bench: Bench, study: int) -> list[tuple[int, int]]:
    """(trial, step) of the snapshots that still have their bytes."""
    found = []
    row = read(bench, store.find_study, PROJECT, str(study))
    for trial in read(bench, trial_store.trials, row):
        found += [
            (trial.number, s.step)
            for s in read(bench, trial_store.snapshots, trial.id)
            if s.forgotten_us is None
        ]
    return found


def test_the_best_of_a_study_keep_their_snapshots(bench: Bench) -> None:
    study = bench.study(keep_best=2)
    completed(bench, study, 0.4, 0.1, 0.3, 0.2)
    assert len(forget(bench)) == 2
    assert kept(bench, study) == [(1, 1), (3, 1)]
    assert forget(bench) == []


def test_the_best_are_the_highest_where_more_is_better(bench: Bench) -> None:
    objective = {"metric": "val/loss", "direction": "maximize", "reduce": "last", "k": 3}
    study = bench.study(keep_best=1, objective=objective)
    completed(bench, study, 0.4, 0.1)
    forget(bench)
    assert kept(bench, study) == [(0, 1)]


def test_a_live_trial_keeps_its_newest_and_what_it_resumed_from(bench: Bench) -> None:
    study = bench.study(keep_best=0)
    bench.trial(study)
    first = bench.claim()
    for step in (1, 2):
        bench.snapshot(first, step)
    bench.expire()
    second = bench.claim()
    bench.snapshot(second, 3)
    forget(bench)
    assert kept(bench, study) == [(0, 2), (0, 3)]
    bench.finish(second, "pruned", "diverged")
    forget(bench)
    assert kept(bench, study) == []


def test_a_branch_that_waits_keeps_its_trunks_snapshot(bench: Bench) -> None:
    study = bench.study(keep_best=0)
    completed(bench, study, 0.4)
    bench.trial(study, start={"trial": 0, "step": 1})
    forget(bench)
    assert kept(bench, study) == [(0, 1)]
    bench.do(c.CancelTrial(study, 1, "test"))
    forget(bench)
    assert kept(bench, study) == []


def test_a_stage_to_come_keeps_what_it_may_go_on_from(bench: Bench) -> None:
    study = bench.study(keep_best=0, stages=[stage(), stage("next")])
    completed(bench, study, 0.4, work={"epochs": 1, "seed": 0, "keep_snapshot": True})
    completed(bench, study, 0.3)
    forget(bench)
    assert kept(bench, study) == [(0, 1)]
    bench.do(c.MoveStudy(study, "stopped", "test", "enough"))
    forget(bench)
    assert kept(bench, study) == []


def test_planning_learns_that_a_snapshot_is_gone_once_no_attempt_has_it(bench: Bench) -> None:
    study = bench.study(keep_best=0)
    bench.trial(study)
    first = bench.claim()
    bench.snapshot(first, 1)
    bench.snapshot(first, 2, "the first's")
    bench.expire()
    bench.snapshot(bench.claim(), 2, "the second's")
    bench.expire()
    third = bench.claim()
    assert planned_from(bench, study) == (1, 2)
    forget(bench)
    assert kept(bench, study) == [(0, 2)]
    assert planned_from(bench, study) == (2,)
    bench.finish(third, "pruned", "diverged")
    forget(bench)
    assert planned_from(bench, study) == ()


def planned_from(bench: Bench, study: int) -> tuple[int, ...]:
    """Steps of trial 0 from which a stage may plan to start."""
    log = StudyLog(bench.study_row(study).spec)
    for entry in read(bench, event_log.entries_since, study, 0):
        log.apply(entry)
    return log.trial(0).snapshots


def test_young_snapshots_and_bytes_with_another_name_are_kept(bench: Bench) -> None:
    study = bench.study(keep_best=0)
    bench.trial(study)
    grant = bench.claim()
    bench.snapshot(grant, 1, "same bytes")
    bench.do(c.AppendLog(grant.lease, 1, sha256("same bytes"), 10))
    bench.finish(grant, "pruned", "diverged")
    assert bench.do(c.ForgetBlobs(bench.clock.now_us())) == []
    assert kept(bench, study) == [(0, 1)]
    assert forget(bench) == []
    assert kept(bench, study) == []
    assert read(bench, trial_store.named_blobs, [sha256("same bytes"), sha256("unknown")]) == {
        sha256("same bytes")
    }


# --- the clock ------------------------------------------------------------------------------------


def test_time_begins_at_the_floor_that_the_database_has_seen() -> None:
    assert SystemClock(floor_us=10**16, wall=lambda: 5).now_us() >= 10**16


@given(st.integers(-(10**12), 10**12))
def test_time_never_goes_back_however_the_wall_is_set(jump: int) -> None:
    wall = ManualClock(2 * 10**15)
    set_to = [0]
    clock = SystemClock(wall=lambda: wall.now_us() + set_to[0])
    before = clock.now_us()
    set_to[0] = jump
    told = clock.resync()
    assert clock.now_us() >= before
    assert (told == 0) == (abs(told) <= JUMP_US)
    if jump > 2 * JUMP_US:
        assert clock.now_us() >= wall.now_us() + jump


def test_a_wall_that_was_set_back_is_told_of_once_and_so_is_its_way_back() -> None:
    """Told of at each look, every sweep would prolong all leases, and none would ever run out."""
    hour, set_to = 3600 * SECOND, [0]
    wall = ManualClock(2 * 10**15)
    clock = SystemClock(wall=lambda: wall.now_us() + set_to[0])
    set_to[0] = -hour
    assert clock.resync() < -hour + JUMP_US
    assert [clock.resync() for _ in range(3)] == [0, 0, 0]
    before = clock.now_us()
    set_to[0] = 0  # set right again: our time has gone on meanwhile, so no lease needs grace
    assert [clock.resync() for _ in range(2)] == [0, 0]
    assert clock.now_us() - before < JUMP_US
    set_to[0] = hour
    assert clock.resync() > hour - JUMP_US
    assert clock.resync() == 0
