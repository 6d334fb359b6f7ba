"""What templates show, worked out from rows."""

from __future__ import annotations

from typing import Any

import pytest
from tunesmith_service import store, trial_store
from tunesmith_service.ui import stage_cards, trial_rows, views
from tunesmith_studies.study import StudySpec
from ui.seeding import SPEC


def trial(**changed: Any) -> trial_store.Trial:
    usual: dict[str, Any] = {
        "id": 1, "study_id": 1, "number": 7, "key": "cell", "ordinal": 0, "state": "complete",
        "stop_reason": "budget", "params": {"lr": 0.1}, "work": {"epochs": 20, "seed": 1}, "start": None,
        "kind": "train", "test_read": None, "tags": None, "variant_of": None,
        "planned_at": 0, "draft": False, "hand": False, "retry_of": None, "imported": None,
        "attempt": 1, "worker_id": None,
        "not_before_us": 0, "losses": 0, "failures": 0, "preemptions": 0, "step": 20, "value": 0.5,
        "last_metrics": {"val/loss": 0.5}, "error": None, "created_us": 0, "started_us": 10,
        "ended_us": 40, "stage": "refine",
    }  # fmt: skip
    return trial_store.Trial(**(usual | changed))


def stage(**changed: Any) -> store.StageRow:
    usual: dict[str, Any] = {
        "id": 1, "position": 0, "name": "coarse", "kind": "coarse_grid", "state": "active", "reason": None,
        "spec": StudySpec.from_json(SPEC).to_json()["stages"][0], "result": None, "activated_us": 0,
        "ended_us": None, "override": None, "counts": {"complete": 6, "running": 2},
    }  # fmt: skip
    return store.StageRow(**(usual | changed))


@pytest.mark.parametrize(
    ("changed", "note"),
    [
        ({}, ""),
        ({"stop_reason": "plateau", "step": 15}, "stopped at its plateau at epoch 15"),
        ({"state": "pruned", "stop_reason": "diverged", "step": 3}, "diverged at epoch 3"),
        ({"state": "waiting", "stop_reason": None, "attempt": 1}, "requeued for attempt 2"),
        ({"state": "failed", "stop_reason": "error", "error": {"kind": "ValueError"}}, "ValueError"),
        ({"attempt": 2}, "attempt 2"),
        ({"hand": True, "retry_of": 3}, "by hand, again after #3"),
        ({"test_read": 2}, "test set read no. 2"),
        (
            {"stop_reason": "plateau", "step": 400, "work": {"epochs": 9, "seed": 1, "steps": 900}},
            "stopped at its plateau at step 400",
        ),
    ],
)
def test_a_note_says_what_the_state_does_not(changed, note):
    assert trial_rows.note(trial(**changed)) == note


def test_a_running_trial_shows_its_newest_value_and_progress():
    row = trial_rows.trial_row(
        trial(state="running", stop_reason=None, value=None, step=5, ended_us=None), "val/loss", None, 110
    )
    assert (row.value, row.newest, row.progress, row.time_us) == (None, 0.5, 25.0, 100)


def test_a_value_that_is_not_finite_is_not_shown_as_a_number():
    row = trial_rows.trial_row(
        trial(state="pruned", value=None, last_metrics={"val/loss": "NaN"}), "val/loss", 7, 0
    )
    assert row.newest is None


def test_an_active_stage_counts_towards_what_it_runs_at_most():
    card = stage_cards.stage(stage(), 24, {})
    assert card.tally == "8 of up to 24 trials: 6 complete, 2 running"
    assert [(b.state, b.width) for b in card.bars] == [("complete", 25.0), ("running", 8.33)]
    assert card.why == "Every cell of lr × weight_decay × optimizer once. 5 epochs a trial."


def test_a_stage_that_is_done_fills_its_bar_and_says_what_it_found():
    done = stage(state="done", counts={"complete": 6}, result={"why": "Best is trial 3."})
    card = stage_cards.stage(done, 24, {})
    assert (card.tally, card.bars[0].width, card.why) == ("6 complete", 100.0, "Best is trial 3.")


def test_a_finished_stage_shows_the_trial_that_its_result_ranks_first() -> None:
    ranking = [{"trial": 9, "value": 0.31}, {"trial": 4, "value": 0.3}]
    done = stage(state="done", result={"why": "", "ranking": ranking})
    lowest = views.Best(4, 0.3, done.name)
    assert stage_cards.stage(done, None, {done.name: lowest}).best == views.Best(9, 0.31, done.name)
    assert stage_cards.stage(stage(state="active"), None, {done.name: lowest}).best == lowest


def test_a_skipped_stage_gives_its_reason():
    assert stage_cards.why(stage(state="skipped", reason="skipped by a person")) == "skipped by a person"


def test_every_stage_kind_says_what_it_will_do():
    kinds = StudySpec.model_json_schema()["properties"]["stages"]["items"]["discriminator"]["mapping"]
    assert set(stage_cards._DOES) == set(kinds)


def test_what_may_be_done_follows_from_the_state():
    said = {s: [m.verb for m in views.moves(s, 1, 2)] for s in ("active", "paused", "complete", "stopped")}
    assert said == {"active": ["pause", "stop"], "paused": ["resume", "stop"], "complete": [], "stopped": []}


def test_settings_lie_where_the_space_s_own_scale_puts_them():
    spec = StudySpec.from_json(SPEC)
    params = {"lr": 0.01, "weight_decay": 0.0, "optimizer": "adam", "batch_size": 64}
    lr, decay, optimizer, batch = trial_rows.trial_settings(params, params | {"lr": 1.0}, spec)
    assert (lr.at, lr.best_at, lr.where) == (50.0, 100.0, "0.01 in [0.0001, 1]")
    assert decay.at == 0.0
    assert (optimizer.at, optimizer.where) == (None, "one of 2")
    assert (batch.at, batch.where) == (None, "fixed")


@pytest.mark.parametrize(
    ("cause", "outcome", "said"),
    [
        (None, None, "running"),
        ("finish", {"state": "complete", "stop_reason": "budget"}, "complete: ran to its end"),
        ("expired", {"state": "waiting"}, "lost: its lease expired; the trial waits again"),
        ("shutdown", {"state": "waiting"}, "handed back: the worker shut down; the trial waits again"),
        ("verdict", {"state": "pruned", "stop_reason": "pruned"}, "pruned by comparison"),
    ],
)
def test_an_attempt_says_how_it_ended(cause, outcome, said):
    assert trial_rows.ending(cause, outcome) == said
