"""What a model makes of a split: its outputs, and the losses and metrics that they earn.

Always in full precision and in evaluation mode, so a number does not depend on how the model was
trained. The mode it was in is put back.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TypeVar

import torch
from torch import Tensor, nn

from tunesmith_workers import memory
from tunesmith_workers.data import Split, in_order
from tunesmith_workers.tasks.registry import Task

AT_ONCE = 1024  # samples; bounds memory, changes no result but by rounding
_SUMS_TO_ONE = 1e-4  # float32 rounding over some thousand classes

Found = TypeVar("Found")


def evaluate(task: Task, model: nn.Module, split: Split) -> dict[str, float]:
    """Means over the split: `loss`, and each of the task's metrics under its name.

    The split must be on the model's device, and stays as it is.
    """
    return _evaluating(model, split, lambda size: _evaluated(task, model, split, size))


def outputs(model: nn.Module, split: Split) -> Tensor:
    """What the model says of each sample, shape (n, …), on its device, without gradients."""
    return _evaluating(
        model, split, lambda size: torch.cat([said for said, _ in _forward(model, split, size)])
    )


@torch.no_grad()
def scores(task: Task, said: Tensor, targets: Tensor) -> dict[str, float]:
    """As `evaluate`, of outputs that are there already, such as an average of several models'.

    Args:
        said: shape (n, …), as the task's model gives them.
        targets: shape (n, …), of the same samples in the same order.
    """
    return {name: total / len(targets) for name, total in _sums(task, said, targets).items()}


def are_probabilities(said: Tensor) -> bool:
    """Whether outputs, shape (n, classes, …), are at least 0 and sum to one over the classes."""
    return bool((said >= 0).all()) and bool(((said.sum(1) - 1).abs() < _SUMS_TO_ONE).all())


def probabilities(said: Tensor) -> Tensor:
    """Outputs, shape (n, classes, …), as probabilities of the classes: these themselves, or their softmax."""
    return said if are_probabilities(said) else said.softmax(1)


def _evaluated(task: Task, model: nn.Module, split: Split, size: int) -> dict[str, float]:
    totals = dict.fromkeys(["loss", *task.metrics], 0.0)
    for said, targets in _forward(model, split, size):
        for name, value in _sums(task, said, targets).items():
            totals[name] += value
    return {name: total / len(split) for name, total in totals.items()}


def _sums(task: Task, said: Tensor, targets: Tensor) -> dict[str, float]:
    measures = {"loss": task.loss, **task.metrics}
    return {name: f(said, targets).sum(dtype=torch.float64).item() for name, f in measures.items()}


def _forward(model: nn.Module, split: Split, size: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Outputs and targets of each piece."""
    for piece in in_order(split, size):
        yield model(piece.x.clone()), piece.y  # a model may write into its input


def _evaluating(model: nn.Module, split: Split, go: Callable[[int], Found]) -> Found:
    """`go` in evaluation mode, with as many samples at once as the device has memory for."""
    training, size = model.training, min(AT_ONCE, len(split))
    model.eval()
    try:
        while True:
            try:
                with torch.no_grad():
                    return go(size)
            except Exception as e:
                if not memory.ran_out(e) or size == 1:
                    raise
            size //= 2
            print(f"out of memory in an evaluation, which begins again with {size} samples at once")
            memory.give_back(split.x.device)
    finally:
        model.train(training)
