"""A check that blocks pauses its study until somebody overrides it with a reason that is kept."""

from __future__ import annotations

from typing import Any

import pytest
from factories import Bench, stage
from tunesmith_service import commands as c
from tunesmith_service import event_log, store
from tunesmith_service.errors import Conflict, NotFound, Refused
from tunesmith_studies.log import StudyLog
from tunesmith_studies.trial import StageState

BLOCKS: dict[str, Any] = {
    "ranking": [],
    "why": "The initial loss is 6.91, log of 10 classes is 2.303.",
    "chosen": {},
    "numbers": {},
    "failed": True,
    "findings": [],
    "blocks": True,
}


@pytest.fixture
def blocked(bench: Bench) -> int:
    """A study whose first stage found a fault."""
    study = bench.study(stages=[stage("check"), stage("coarse"), stage("fine")])
    assert end(bench, study)
    return study


def end(bench: Bench, study: int, **changed: Any) -> Any:
    return bench.do(c.EndStage(study, "check", BLOCKS | changed, bench.event_n(study)))


def states(bench: Bench, study: int) -> list[str]:
    with bench.engine.connect() as conn:
        return [s.state for s in store.stages(conn, study)]


def override(bench: Bench, study: int, reason: str = "the loss sums on purpose", name: str = "check") -> Any:
    return bench.do(c.OverrideStage(study, name, "ann", reason))


def test_a_check_that_blocks_fails_and_pauses_its_study_with_the_reason(bench: Bench, blocked: int) -> None:
    assert states(bench, blocked) == ["failed", "pending", "pending"]
    row = bench.study_row(blocked)
    assert row.state == "paused"
    assert row.reason == f"Stage check failed: {BLOCKS['why']}"
    assert bench.stage_row(blocked, "check").result == BLOCKS


def test_a_check_that_only_fails_lets_the_study_go_on(bench: Bench) -> None:
    study = bench.study(stages=[stage("check"), stage("coarse")])
    end(bench, study, blocks=False)
    assert states(bench, study) == ["failed", "active"]
    assert bench.study_row(study).state == "active"


def test_a_blocked_study_is_not_resumed_and_told_what_failed_and_how_to_go_on(
    bench: Bench, blocked: int
) -> None:
    told = bench.do(c.MoveStudy(blocked, "active", "ann", ""))
    assert isinstance(told, Conflict)
    assert BLOCKS["why"] in told.detail
    assert "tunesmith stage override study check --reason" in told.detail
    assert states(bench, blocked) == ["failed", "pending", "pending"]


def test_nothing_begins_behind_a_block_whatever_else_is_done(bench: Bench, blocked: int) -> None:
    bench.do(c.SkipStage(blocked, "coarse", "ann", "no"))
    bench.do(c.AddStage(blocked, stage("more"), "ann"))
    assert states(bench, blocked) == ["failed", "skipped", "pending", "pending"]
    assert bench.study_row(blocked).state == "paused"


def test_a_block_pauses_a_study_that_somebody_had_paused(bench: Bench) -> None:
    study = bench.study(stages=[stage("check"), stage("coarse")])
    bench.do(c.MoveStudy(study, "paused", "ann", "lunch"))
    end(bench, study)
    assert bench.study_row(study).reason == f"Stage check failed: {BLOCKS['why']}"


def test_an_override_lets_the_study_go_on_and_keeps_who_why_and_when(bench: Bench, blocked: int) -> None:
    bench.seconds(60)
    assert override(bench, blocked) is None
    assert states(bench, blocked) == ["failed", "active", "pending"]
    assert (bench.study_row(blocked).state, bench.study_row(blocked).reason) == ("active", None)
    kept = {"reason": "the loss sums on purpose", "actor": "ann", "at_us": bench.clock.now_us()}
    assert bench.stage_row(blocked, "check").override == kept
    with bench.engine.connect() as conn:
        told = [e for e in event_log.page(conn, blocked, 0, 100) if e.data.get("override")]
    assert [(e.stage, e.actor, e.data["override"]) for e in told] == [("check", "ann", kept)]


def test_the_same_override_again_changes_nothing_and_another_is_refused(bench: Bench, blocked: int) -> None:
    override(bench, blocked)
    seen = bench.event_n(blocked)
    assert override(bench, blocked) is None
    told = override(bench, blocked, "another reason")
    assert isinstance(told, Conflict)
    assert "ann has overridden check already: the loss sums on purpose" in told.detail
    assert bench.event_n(blocked) == seen


def test_a_study_that_was_overridden_pauses_and_resumes_as_any_other(bench: Bench, blocked: int) -> None:
    override(bench, blocked)
    assert bench.do(c.MoveStudy(blocked, "paused", "ann", "lunch")) == "paused"
    assert bench.do(c.MoveStudy(blocked, "active", "ann", "")) == "active"


@pytest.mark.parametrize(("name", "refusal"), [("coarse", Conflict), ("nothing", NotFound)])
def test_only_a_stage_that_blocks_is_overridden(
    bench: Bench, blocked: int, name: str, refusal: type[Refused]
) -> None:
    assert isinstance(override(bench, blocked, name=name), refusal)


def test_a_stopped_study_stays_stopped(bench: Bench, blocked: int) -> None:
    assert bench.do(c.MoveStudy(blocked, "stopped", "ann", "a fault")) == "stopped"
    assert isinstance(override(bench, blocked), Conflict)


def test_planning_reads_the_log_of_an_override(bench: Bench, blocked: int) -> None:
    override(bench, blocked)
    log = StudyLog(bench.study_row(blocked).spec)
    with bench.engine.connect() as conn:
        for entry in event_log.entries_since(conn, blocked, 0):
            log.apply(entry)
    assert log.stage_state("check") is StageState.FAILED
    assert [s.name for s in log.active_stages()] == ["coarse"]
    result = log.history("coarse").earlier["check"].result
    assert result.why == BLOCKS["why"], "the result stays"
