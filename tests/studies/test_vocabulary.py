"""The vocabulary says what the trainer does: the same names, choices and defaults."""

from __future__ import annotations

import pytest
from tunesmith_studies.vocabulary import ANY_LENGTH_SCHEDULES, HYPERPARAMETERS, OPTIMIZERS, SCHEDULES

torch = pytest.importorskip("torch")


def test_the_trainer_builds_every_optimizer_and_schedule_of_the_vocabulary() -> None:
    from tunesmith_workers import optim, schedules

    assert set(OPTIMIZERS) == set(optim._BUILDERS)
    assert set(SCHEDULES) == set(schedules._BUILDERS)
    model = torch.nn.Linear(2, 2)
    for optimizer in OPTIMIZERS:
        made = optim.make_optimizer(model, {"optimizer": optimizer})
        assert made.param_groups[0]["lr"] == HYPERPARAMETERS["lr"].default
        assert made.param_groups[0]["weight_decay"] == HYPERPARAMETERS["weight_decay"].default


def test_schedules_that_do_not_know_the_end_give_the_same_rates_in_a_longer_run() -> None:
    from tunesmith_workers import optim, schedules

    def rates(name: str, epochs: int) -> list[float]:
        optimizer = optim.make_optimizer(torch.nn.Linear(2, 2), {})
        schedule = schedules.make_schedule(optimizer, {"schedule": name}, schedules.Length(epochs, 3))
        found = []
        for _ in range(6):
            found.append(optimizer.param_groups[0]["lr"])
            for _ in range(3):
                optimizer.step()
                schedule.after("step")
            schedule.after("epoch")
        return found

    same = {name for name in SCHEDULES if rates(name, 6) == rates(name, 12)}
    assert same == set(ANY_LENGTH_SCHEDULES)
