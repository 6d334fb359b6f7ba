"""The data that a work order trains on and judges by."""

from __future__ import annotations

import torch
from tunesmith_service.wire import WorkOrder

from tunesmith_workers import preprocess
from tunesmith_workers.data import Split, Splits, folded, fraction_of
from tunesmith_workers.tasks.registry import Task


def given(task: Task, work: WorkOrder) -> Splits:
    """The task's splits as `work.fold` cuts them, before anything is done to inputs."""
    return task.splits if work.fold is None else folded(task.splits, *work.fold)


def prepared(
    task: Task, work: WorkOrder, *, seed: int, device: torch.device, with_test: bool = False
) -> Splits:
    """The task's splits as `work.fold`, `work.data_fraction` and `preprocessing` make them, on the device.

    In this order: what preprocessing learns, it learns from the samples that the trial trains on. The test
    split is there only if asked for.

    Args:
        seed: of the trial; a fraction is drawn by it.

    Raises: ValueError on a fold, a fraction or a preprocessing that these splits cannot have.
    """
    splits = given(task, work)
    train = fraction_of(splits.train, work.data_fraction, seed)
    fitted = preprocess.fit(work.params, train.x)

    def made(split: Split) -> Split:
        return (fitted.of(split) if fitted else split).to(device)

    test = made(splits.test) if with_test and splits.test else None
    train_dev = made(splits.train_dev) if splits.train_dev else None
    return Splits(made(train), made(splits.val), test, splits.seed, train_dev)
