"""The vocabulary says what the trainer does: the same names, choices and defaults."""

from __future__ import annotations

import dataclasses

import pytest
from tunesmith_studies.space import Space
from tunesmith_studies.vocabulary import (
    ANY_LENGTH_SCHEDULES,
    AUGMENTATIONS,
    FREEZES,
    HYPERPARAMETERS,
    INITS,
    OPTIMIZERS,
    PREPROCESSINGS,
    READ_BY_MODELS,
    SCHEDULES,
    doubts,
)

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


def test_every_word_has_a_help_line_and_a_default_within_its_bounds() -> None:
    kinds = {"float": float, "int": int, "str": str, "bool": bool}
    for name, known in HYPERPARAMETERS.items():
        assert known.help.endswith("."), name
        if known.default is None:
            continue
        assert type(known.default) is kinds[known.type], name
        assert not known.choices or known.default in known.choices, name
        if known.type in ("float", "int"):
            assert known.low <= known.default <= known.high, name


def test_the_trainer_knows_every_augmentation_initialisation_preprocessing_and_freeze() -> None:
    from tunesmith_workers import freezing, init, preprocess
    from tunesmith_workers.augment import Augmentation
    from tunesmith_workers.tasks import models

    given = {"seed", "low", "high"}
    assert {f.name for f in dataclasses.fields(Augmentation)} == {*AUGMENTATIONS, *given}
    assert set(INITS) == {"as_built", *init._DRAWS}
    flat, images = torch.rand(9, 4), torch.rand(9, 1, 4, 4)
    for how in PREPROCESSINGS:
        made = preprocess.fit({"preprocessing": how}, images if how == "per_channel" else flat)
        assert (made is None) == (how == "as_given")
    shape = models.Shape(sample=(4,), classes=2)
    trained = set()
    for how in FREEZES:
        model = models.mlp(shape, hidden=3, depth=3, dropout=0.0)
        freezing.Freezing(model, {"freeze": how}).train(0)
        trained.add(sum(p.requires_grad for p in model.parameters()))
    assert trained == {8, 4, 2}
    assert set(HYPERPARAMETERS) >= {*AUGMENTATIONS, *READ_BY_MODELS}
    assert all(HYPERPARAMETERS[name].mid_training for name in AUGMENTATIONS)


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


def test_values_that_the_trainer_would_refuse_and_names_beside_its_words_are_doubted() -> None:
    space = Space.model_validate({
        "lr": {"low": 1e-3, "high": 1.0, "log": True},
        "optimizer": ["sgd", "adamm"],
        "dropout": {"low": 0.0, "high": 1.5},
        "width": [32, 64],
    })  # fmt: skip
    fixed = {"mixup": -1, "weigth_decay": 1e-4, "batch_size": 32, "accumulation": 1.5, "restore_best": True}
    found = list(doubts(space, fixed))
    assert [f.split(":")[0] for f in found] == [
        "optimizer must be one of sgd, momentum, nesterov, adagrad, rmsprop, adam, adamw, got 'adamm'",
        "dropout must be a number from 0 to 1, got 1.5",
        "mixup must be a number from 0 up, got -1",
        "weigth_decay is no word of the trainer, so it goes to the model; did you mean weight_decay?",
        "accumulation must be a whole number from 1 up, got 1.5",
    ]
