"""How the callbacks of frameworks tell a trial of an epoch. What needs a framework is in test_frameworks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from training import CPU, make_work, points
from tunesmith_workers.callbacks.telling import Teller, check_epochs
from tunesmith_workers.endings import Said
from tunesmith_workers.loop import Trial


def told(tmp_path: Path, said: list[Said], **more: Any) -> Trial:
    work = make_work(epochs=2, keep_snapshot=True)
    return Trial(work, device=CPU, scratch=tmp_path, say=said.append, **more)


def test_metrics_get_the_names_that_tunesmith_knows(tmp_path: Path):
    said: list[Said] = []
    teller = Teller(told(tmp_path, said), {"val_f1": "val/f1-macro"})
    found = {"val_loss": 1.0, "train_loss": 2.0, "val_f1": 0.5, "val/seen": 3.0, "lr": 0.1}
    teller.tell(1, found)
    names = {"val/loss": 1.0, "train/loss": 2.0, "val/f1-macro": 0.5, "val/seen": 3.0, "lr": 0.1}
    assert points(said)[0].metrics == names


def test_training_stops_after_the_last_epoch_and_not_before(tmp_path: Path):
    teller = Teller(told(tmp_path, []))
    assert [teller.tell(epoch, {"val_loss": 1.0}) for epoch in (1, 2)] == [False, True]
    assert teller.snapshot_is_due


def test_a_trial_that_diverged_stops_without_an_exception_or_a_snapshot(tmp_path: Path):
    teller = Teller(told(tmp_path, []))
    assert teller.tell(1, {"val_loss": float("nan")})
    assert not teller.snapshot_is_due


def test_a_trial_that_is_wanted_back_stops_with_a_snapshot(tmp_path: Path):
    teller = Teller(told(tmp_path, [], asked=lambda: "hand_back"))
    assert teller.tell(1, {"val_loss": 1.0})
    assert teller.snapshot_is_due


def test_another_number_of_epochs_is_refused(tmp_path: Path):
    trial = told(tmp_path, [])
    check_epochs(trial, 2, "max_epochs")
    with pytest.raises(ValueError, match=r"trains 2 epochs, not 1000: give max_epochs=trial\.epochs"):
        check_epochs(trial, 1000, "max_epochs")
