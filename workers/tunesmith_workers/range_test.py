"""The learning-rate range test: one run whose rate rises exponentially, and its loss on the way.

Reads of `work.options`, each with a default: `lr_low` and `lr_high`, between which the rate rises;
`steps`, optimizer steps at least (an epoch, or `work.epochs`, where that is more); `points`, how many are
reported at most; `smoothing` and `stop_factor`: it ends early where the exponential average of the loss,
corrected for its start, is so many times its lowest, or not finite. What follows from the losses is for
`tunesmith_studies.rates` to say.

The schedule of the hyperparameters is left aside; everything else is as in training. It leaves no
snapshot: a sweep that is handed back begins again, for its steps are few and its state is soon spent.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from tunesmith_service.wire import WorkOrder

from tunesmith_workers import rng
from tunesmith_workers.data import cut, epoch_order, steps_per_epoch
from tunesmith_workers.endings import ABANDONED, BUDGET, RELEASED, Asked, EpochResult, Said, Wish
from tunesmith_workers.freezing import Freezing
from tunesmith_workers.preparation import prepared
from tunesmith_workers.pretrain import pretraining
from tunesmith_workers.stepping import Learner
from tunesmith_workers.tasks.registry import Entry, Task, TaskError

if TYPE_CHECKING:
    from tunesmith_workers.kinds import Place

_BURST = 50  # points that are said together, so that a sweep is a few reports
_STARTING = 0.1  # share of the points in which an average over few losses is too rough to be the lowest


def sweep(entry: Entry, work: WorkOrder, place: Place) -> Iterator[Said]:
    """Yields EpochResults (`step`: optimizer steps done; `train/loss`: mean over the samples since the
    point before, `sys/lr`: geometric mean of their rates, `sys/epoch`: passes over the split), then an
    Ending. A sweep that ends early is complete: that the loss broke away is what it was to find out.

    Raises: ValueError or TaskError on options or hyperparameters that make no sweep.
    """
    if not isinstance(entry.task, Task):
        raise TypeError(f"{entry.name} trains by its own loop")
    run = _Sweep(entry.task, work, place.device, place.threads)
    print(run.described())
    burst: list[EpochResult] = []
    for said in run.points(place.asked):
        if not isinstance(said, EpochResult):
            yield ABANDONED if said == "abandon" else RELEASED
            return
        burst.append(said)
        if len(burst) == _BURST:
            yield from burst
            burst = []
    yield from burst
    print(run.summed_up())
    yield BUDGET


@dataclass(frozen=True, slots=True)
class _Options:
    """What a work order says about its sweep."""

    lr_low: float
    lr_high: float
    steps: int
    points: int
    smoothing: float
    stop_factor: float

    @classmethod
    def of(cls, work: WorkOrder) -> _Options:
        """Raises TaskError on values that make no sweep."""
        found = cls(
            lr_low=_number(work, "lr_low", 1e-5),
            lr_high=_number(work, "lr_high", 10.0),
            steps=int(_number(work, "steps", 300)),
            points=int(_number(work, "points", 1000)),
            smoothing=_number(work, "smoothing", 0.98),
            stop_factor=_number(work, "stop_factor", 4.0),
        )
        if found.lr_low >= found.lr_high or found.smoothing >= 1 or found.steps < 2 or found.points < 2:
            raise TaskError(
                "a range test needs lr_low < lr_high, 2 or more steps and points, and smoothing below 1; got "
                + ", ".join(f"{name} {getattr(found, name):g}" for name in cls.__dataclass_fields__)
            )
        return found


def _number(work: WorkOrder, name: str, default: float) -> float:
    value = work.options.get(name, default)
    if isinstance(value, bool | str) or not math.isfinite(value) or value <= 0:
        raise TaskError(f"a range test's {name} is a number above 0, got {value!r}")
    return float(value)


@dataclass(slots=True)
class _Average:
    """The exponential average of the losses, corrected for its start at 0, and its lowest value."""

    beta: float
    patience: int  # losses before an average can be the lowest
    count: int = 0
    lowest: float = math.inf
    newest: float = math.nan
    _sum: float = field(default=0.0)

    def add(self, loss: float) -> None:
        self.count += 1
        self._sum = self.beta * self._sum + (1 - self.beta) * loss
        self.newest = self._sum / (1 - self.beta**self.count)
        if self.count > self.patience:
            self.lowest = min(self.lowest, self.newest)


class _Sweep:
    def __init__(self, task: Task, work: WorkOrder, device: torch.device, threads: int) -> None:
        self.options, params = _Options.of(work), work.params
        self.seed, self.device = work.seed, device
        rng.begin(work.seed, threads)
        self.splits = prepared(task, work, seed=work.seed, device=device)
        self.learner = Learner(task, params, self.splits.train, seed=work.seed, device=device)
        self.freezing = Freezing(self.learner.model, params)
        self.epoch_steps = steps_per_epoch(len(self.splits.train), self.learner.step_size)
        self.total = max(self.options.steps, work.epochs * self.epoch_steps)
        self.group = math.ceil(self.total / self.options.points)  # steps of a point
        planned = math.ceil(self.total / self.group)
        self.average = _Average(self.options.smoothing, patience=round(_STARTING * planned))
        self.pretraining = pretraining(self.learner.model, self.splits.train.x, params, work.seed)
        self.step = 0  # optimizer steps done
        self.rate = self.options.lr_low

    def points(self, asked: Asked) -> Iterator[EpochResult | Wish]:
        """All points of the sweep, or what the supervisor wants instead of its rest."""
        if self.pretraining and (wish := self.pretraining.train(asked)):
            yield wish
            return
        losses: list[Tensor] = []
        for chunk, epoch, number in self._chunks():
            if wish := asked():
                yield wish
                return
            self._set_rate()
            losses.append(self.learner.step(chunk, epoch, number).losses)
            self.step += 1
            if self.step % self.group == 0 or self.step == self.total:
                point = self._point(losses, epoch + (number + 1) / self.epoch_steps)
                yield point
                losses = []
                if self._broke_away(point.metrics["train/loss"]):
                    return

    def _chunks(self) -> Iterator[tuple[Tensor, int, int]]:
        """The samples of each step, its epoch, and its number there."""
        for epoch in range(math.ceil(self.total / self.epoch_steps)):
            self.freezing.train(epoch)
            order = epoch_order(len(self.splits.train), self.seed, epoch).to(self.device)
            for number, chunk in enumerate(cut(order, self.learner.step_size)):
                if self.step == self.total:
                    return
                yield chunk, epoch, number

    def _at(self, step: float) -> float:
        low, high = self.options.lr_low, self.options.lr_high
        return low * math.exp(math.log(high / low) * step / (self.total - 1))

    def _set_rate(self) -> None:
        self.rate = self._at(self.step)
        for group in self.learner.optimizer.param_groups:
            group["lr"] = self.rate

    def _point(self, losses: list[Tensor], passes: float) -> EpochResult:
        pretrained = self.pretraining.epoch if self.pretraining else 0
        metrics = {
            "train/loss": torch.cat(losses).double().mean().item(),
            "sys/lr": self._at(self.step - (len(losses) + 1) / 2),
            "sys/epoch": pretrained + passes,
        }
        return EpochResult(self.step, metrics)

    def _broke_away(self, loss: float) -> bool:
        """Whether the rate is too high by now, for good."""
        if not math.isfinite(loss):
            return True
        self.average.add(loss)
        return self.average.newest > self.options.stop_factor * self.average.lowest

    def described(self) -> str:
        options = self.options
        return (
            f"range test of {type(self.learner.model).__name__}: the rate rises from {options.lr_low:g} to "
            f"{options.lr_high:g} in {self.total:,} steps of {self.learner.step_size} samples, "
            f"{self.epoch_steps:,} of them an epoch"
        )

    def summed_up(self) -> str:
        ended = "at its end" if self.step == self.total else "where the loss broke away"
        return f"complete {ended}, after {self.step:,} of {self.total:,} steps, at a rate of {self.rate:.3g}"
