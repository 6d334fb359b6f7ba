"""The list of studies on both databases: each order, what a line tells, and what it costs to ask."""

from __future__ import annotations

from typing import Any, get_args

import pytest
from factories import Bench, Slot, stage
from statements import statements
from tunesmith_service import commands
from tunesmith_service.security import Role, Who
from tunesmith_service.ui import study_list
from tunesmith_service.wishes import PutAway

ANN = Who(1, "k", "ann", Role.OPERATOR, None)


def lines(bench: Bench, **asked: Any) -> list[study_list.Line]:
    with bench.engine.connect() as conn:
        found, more = study_list.lines(conn, ANN, study_list.Asked(**asked), bench.clock.now_us())
    assert not more
    return found


def run(
    bench: Bench, study: int, loss: float, *, slot: Slot | None = None, seconds: float = 10, **trial: Any
) -> None:
    bench.trial(study, **trial)
    grant = bench.claim(slot)
    bench.seconds(seconds)
    bench.report(grant, 1, loss)
    bench.finish(grant)


def test_studies_are_ordered_by_their_best_with_those_without_one_last(bench: Bench) -> None:
    made = {}
    for name, losses in (("worse", (0.9, 0.8)), ("none", ()), ("better", (0.7, 0.2))):
        made[name] = bench.study(name)
        for loss in losses:
            run(bench, made[name], loss)
    with bench.engine.connect() as conn:
        best = study_list.rows(conn, ANN, study_list.Asked(order="best"))
        assert [s.name for s in best] == ["better", "worse", "none"]
        for order in get_args(study_list.Order):
            assert len(study_list.rows(conn, ANN, study_list.Asked(order=order))) == 3
        assert [s.name for s in study_list.rows(conn, ANN, study_list.Asked(search="ETT"))] == ["better"]
        assert study_list.rows(conn, ANN, study_list.Asked(search="%")) == []
        assert study_list.owners(conn, ANN) == ["test"]


def test_a_line_tells_best_counts_stage_and_when_anything_last_happened(bench: Bench) -> None:
    study = bench.study("told", stages=[stage("first"), stage("second")])
    higher = bench.study("higher", objective={"metric": "val/accuracy", "direction": "maximize"})
    bench.study("untouched")
    created_us = bench.clock.now_us()
    for loss in (0.9, 0.4, 0.6):
        run(bench, study, loss, stage="first")
    bench.trial(study, stage="first")
    open_grant = bench.claim()
    bench.seconds(5)
    bench.report(open_grant, 1, 0.1)
    by_name = {line.row.name: line for line in lines(bench)}
    told = by_name["told"]
    assert told.standing.best is not None
    assert (told.standing.best.number, told.standing.best.value) == (1, 0.4)
    assert (told.standing.counts["complete"], told.standing.counts["running"]) == (3, 1)
    assert told.now == "first 1/2"
    assert told.standing.updated_us == bench.clock.now_us()
    assert by_name["untouched"].standing.updated_us == created_us
    assert by_name["untouched"].standing.best is None
    assert by_name["higher"].row.id == higher


def test_the_time_left_is_what_is_left_at_the_pace_of_trials_that_have_ended(bench: Bench) -> None:
    study = bench.study("timed", stages=[stage(trials=10)])
    (line,) = lines(bench)
    assert line.standing.left_seconds is None, "no trial has ended"
    (slot,) = bench.register()
    for _ in range(4):
        run(bench, study, 0.5, slot=slot, seconds=30)
    (line,) = lines(bench)
    assert line.standing.left_seconds == pytest.approx(6 * 30)
    bench.do(commands.MoveStudy(study, "paused", "test", "by hand"))
    (line,) = lines(bench)
    assert line.standing.left_seconds is None, "nobody knows when it goes on"


@pytest.mark.parametrize(
    ("limits", "seconds"), [({"max_gpu_hours": 200 / 3600}, 80), ({"max_trials": 6}, 60)], ids=str
)
def test_a_limit_ends_a_study_before_its_stages_do(
    bench: Bench, limits: dict[str, Any], seconds: float
) -> None:
    study = bench.study("limited", stages=[stage(trials=10)], limits=limits)
    (slot,) = bench.register()
    for _ in range(4):
        run(bench, study, 0.5, slot=slot, seconds=30)
    (line,) = lines(bench)
    assert line.standing.left_seconds == pytest.approx(seconds)


def test_archived_studies_are_left_out_unless_asked_for(bench: Bench) -> None:
    kept, gone = bench.study("kept"), bench.study("gone")
    bench.do(commands.MoveStudy(gone, "stopped", "test", "by hand"))
    bench.do(PutAway(gone, True, "test"))
    assert [line.row.id for line in lines(bench)] == [kept]
    assert [line.row.id for line in lines(bench, state="archived")] == [gone]


def test_fifty_studies_cost_as_many_statements_as_five(bench: Bench) -> None:
    sent: dict[int, list[str]] = {}
    for more, count in ((5, 5), (45, 50)):
        for _ in range(more):
            run(bench, bench.study(f"study {len(lines(bench))}"), 0.5)
        with statements(bench.engine) as sent[count]:
            assert len(lines(bench)) == count
    assert len(sent[50]) == len(sent[5]) < 12
