"""A task made from what a loop showed: its fresh model, its loss, the rows it read.

What the built-in trainer's preflight can find out about a task it can find out about this one.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from tunesmith_workers.data import Split, Splits
from tunesmith_workers.losses import LossCall
from tunesmith_workers.probes import data, learning, structure
from tunesmith_workers.probes.bench import Bench
from tunesmith_workers.samples import Samples
from tunesmith_workers.tasks.registry import Task
from tunesmith_workers.watching import Batch, Forward, Watcher

_HELD_OUT = 5  # of so many training rows one is validated on, where validation's labels were not seen
FEWEST = 20
"""Rows without which nothing can be learnt from them."""


class Replica(Watcher):
    """Takes a copy of the model as the first backward begins, if one model reads the data and its outputs go
    straight into one of torch's loss functions; else there is none."""

    def __init__(self) -> None:
        self._seen = False
        self.model: nn.Module | None = None
        self.loss: Callable[..., Tensor] | None = None

    def trained(self, batch: Batch) -> None:
        if self._seen:
            return
        self._seen = True
        if len(batch.forwards) == len(batch.losses) == 1 and _fit(batch.forwards[0], batch.losses[0]):
            try:
                self.model = copy.deepcopy(batch.forwards[0].module)
            except Exception as e:  # somebody else's class: whatever it raises, it cannot be copied
                print(f"the model cannot be copied ({type(e).__name__}: {e}): it is not trained on its own")
                return
            self.loss = _by_sample(batch.losses[0])

    def task(self, samples: Samples) -> Task | None:
        """None if too little was seen to make one."""
        model, loss, classes = self.model, self.loss, samples.classes
        (x, y), (val_x, val_y) = samples.kept()
        if model is None or loss is None or classes is None or y is None or len(y) < FEWEST:
            return None
        if int(y.min()) < 0 or int(y.max()) >= classes or not _finite(x):
            return None
        train = Split(x, y)
        known = val_y is not None and len(val_y) >= FEWEST and _finite(val_x)
        splits = Splits(train, Split(val_x, val_y)) if known and val_y is not None else _cut(train)
        return Task(splits, classes, build=lambda params: copy.deepcopy(model), loss=loss)


def of_data(samples: Samples) -> dict[str, float]:
    """What the rows that were read are like, and how validation's differ from training's."""
    (x, y), (val_x, _) = samples.kept()
    if not len(x):
        return {}
    found = data.inputs(x)
    found["check/inputs/not_finite"] = float(sum((~torch.isfinite(t)).sum() for t in (x, val_x)))
    if found["check/inputs/not_finite"]:
        return found
    column = data.leak({"train": x}, y)
    found |= {name: value for name, value in column.items() if name == "check/leak/column"}
    comparable = len(val_x) > 0 and val_x.shape[1:] == x.shape[1:]
    if (
        comparable and samples.epochs() is not None
    ):  # else training's rows are made anew, validation's are not
        found |= data.shift(x, val_x)
        if not samples.evaluates_on_training():
            found |= data.leak({"train": x, "val": val_x}, y)
    return found


def probed(bench: Bench) -> Iterator[dict[str, float]]:
    """What the built-in trainer's preflight does to a task, but for what a loop has of its own: its
    optimizer, its order, its modes and its times."""
    many, few = (_some(bench, count) for count in (256, 4))
    yield (
        structure.first_inputs(bench, many.x) | structure.initial(bench, many) | structure.units(bench, many)
    )
    yield learning.overfit(bench, 1, int(bench.option("first_steps", 50)))[1]
    steps, gradients = int(bench.option("overfit_steps", 300)), learning.Gradients()
    yield learning.overfit(bench, 4, steps)[1]
    known, found = learning.overfit(bench, int(bench.option("overfit_batch", 32)), steps, gradients)
    model = bench.bare()
    loose = structure.unregistered(model, bench.losses(model(few.x), few.y).sum())
    weakest = {k: v for k, v in gradients.found().items() if k == "check/gradients/weakest"}
    yield (
        found
        | learning.after_overfit(bench, known)
        | weakest
        | {"check/gradients/unregistered": float(loose)}
    )
    train, val = ((split.x.cpu(), split.y.cpu()) for split in (bench.train, bench.val))
    found = data.neighbours(train, val)
    yield found
    related = abs(found.get(data.NEIGHBOURS, math.inf)) > bench.option("related", 3.0)
    for found in learning.generalise(bench, known.rate, at_least=0 if related else 1000, linear=False):
        yield found | {"check/loss/lowest": bench.lowest}


def _some(bench: Bench, count: int) -> Split:
    chosen = bench.mixed(count)
    return Split(bench.train.x[chosen], bench.train.y[chosen])


def _finite(x: Tensor) -> bool:
    return bool(torch.isfinite(x).all())


def _fit(forward: Forward, loss: LossCall) -> bool:
    """Whether the loss judges what the model said, sample by sample, and the model reads one tensor."""
    args, kwargs = forward.inputs
    alone = len(args) == 1 and isinstance(args[0], Tensor) and not kwargs
    given, output = loss.outputs, forward.output
    if not alone or forward.rows is None or given is None or not isinstance(output, Tensor):
        return False
    same = given.data_ptr() == output.data_ptr() and given.numel() == output.numel()
    return same and loss.labels is not None and len(given) == len(forward.rows) == len(loss.labels)


def _by_sample(call: LossCall) -> Callable[..., Tensor]:
    function, target = call.function, call.target
    assert call.outputs is not None
    assert target is not None
    shape, targets, dtype, hard = call.outputs.shape[1:], target.shape[1:], target.dtype, target.dim() == 1

    def loss(outputs: Tensor, labels: Tensor, smoothing: float = 0.0) -> Tensor:
        given = outputs.reshape(len(outputs), *shape)
        if hard or targets.numel() == 1:
            wanted = labels.to(dtype).reshape(len(labels), *targets)
        else:
            wanted = torch.nn.functional.one_hot(labels, given.shape[1]).to(dtype)
        options: dict[str, Any] = {"label_smoothing": smoothing} if smoothing else {}
        return function(given, wanted, reduction="none", **options).reshape(len(outputs))

    return loss


def _cut(train: Split) -> Splits:
    held = torch.arange(len(train)) % _HELD_OUT == 0
    return Splits(Split(train.x[~held], train.y[~held]), Split(train.x[held], train.y[held]))
