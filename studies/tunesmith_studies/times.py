"""How long a study's stages will take, from what preflight measured of a step, an evaluation and a build.

Slot-seconds: what one slot would take for all of a stage's trials, one after the other. By the clock it is
that over the slots that work; in GPU-hours it is that times a slot's devices over 3600.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import fmean
from typing import TYPE_CHECKING, Any

from tunesmith_studies.checks.said import Measured
from tunesmith_studies.space import Choice, Scalar
from tunesmith_studies.vocabulary import HYPERPARAMETERS

if TYPE_CHECKING:
    from tunesmith_studies.stages.base import Forecast, Stage
    from tunesmith_studies.study import StudySpec

PER_TRIAL = 0.05
"""Seconds between two trials of a slot: finish, claim, and the trainer's own start (docs/measured.md)."""
PER_EPOCH = 0.003
"""Seconds that an epoch takes beside its steps and its evaluation: order, point, report."""
PRUNED = 0.5
"""Part of its epochs that a stage with a pruner runs: pruning gives about twice the trials (recipe §3)."""
_PLACES = (0.1, 0.3, 0.5, 0.7, 0.9)
"""Where on its scale a number that varies is looked at."""


@dataclass(frozen=True, slots=True)
class PointTime:
    """Seconds at one point of the space, which stands for a share of all points.

    Attributes:
        weight: that share; all points' add up to 1.
        fixed, sample: a step on a batch takes fixed + sample · batch.
        evaluate: evaluating the validation split once.
        build: a model and its optimizer, and what the first step takes more than others.
        snapshot: writing one.
    """

    weight: float
    fixed: float
    sample: float
    evaluate: float
    build: float
    snapshot: float


@dataclass(frozen=True, slots=True)
class Timing:
    """What preflight measured of times, and how many samples the splits hold."""

    points: tuple[PointTime, ...]
    train_samples: int
    val_samples: int

    def to_json(self) -> dict[str, Any]:
        return asdict(self) | {"points": [asdict(p) for p in self.points]}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Timing:
        points = tuple(PointTime(**p) for p in data["points"])
        return cls(points, data["train_samples"], data["val_samples"])

    def epoch(self, batch: float, fraction: float = 1.0) -> float:
        """Seconds of training for one pass over a share of the training split, evaluation left out."""
        samples = fraction * self.train_samples
        steps = math.ceil(samples / batch)
        return self._mean("fixed") * steps + self._mean("sample") * samples

    def step(self, batch: float) -> float:
        return self._mean("fixed") + self._mean("sample") * batch

    def evaluation(self) -> float:
        return self._mean("evaluate")

    def beginning(self) -> float:
        """Seconds that a trial takes beside its epochs."""
        return self._mean("build") + PER_TRIAL

    def snapshot(self) -> float:
        return self._mean("snapshot")

    def _mean(self, name: str) -> float:
        return math.fsum(p.weight * float(getattr(p, name)) for p in self.points)


def timing_of(measured: Sequence[tuple[float, Measured]]) -> Timing | None:
    """From the tables of preflight's trials with a weight each; None if no times were measured."""
    timed = [(weight, m) for weight, m in measured if "time/fixed" in m]
    if not timed:
        return None
    whole = math.fsum(weight for weight, _ in timed)
    points = tuple(
        PointTime(
            weight=weight / whole,
            fixed=m["time/fixed"],
            sample=m["time/sample"],
            evaluate=m.get("time/evaluate", 0.0),
            build=m.get("time/build", 0.0) + m.get("time/first", 0.0),
            snapshot=m.get("time/snapshot", 0.0),
        )
        for weight, m in timed
    )
    first = timed[0][1]
    return Timing(points, int(first["time/train_samples"]), int(first.get("time/val_samples", 0)))


def forecast_seconds(study: StudySpec, timing: Timing) -> dict[str, float]:
    """Slot-seconds of each stage, by name, of all but those that have nothing to train."""
    planned: dict[str, Forecast] = {}
    for stage in study.stages:
        planned[stage.name] = stage.forecast(study, planned)
    return {s.name: stage_seconds(study, s, planned[s.name], timing) for s in study.stages}


def stage_seconds(study: StudySpec, stage: Stage, planned: Forecast, timing: Timing) -> float:
    """Slot-seconds of one stage of which so much is planned."""
    batches = batch_sizes(study, stage)
    beside = planned.trials * timing.beginning() + planned.snapshots * timing.snapshot()
    if stage.budget is not None and stage.budget.seconds is not None:
        return planned.trials * (stage.budget.seconds + timing.evaluation()) + beside
    epochs = likely_epochs(stage, planned)
    trained = fmean(
        max(
            epochs * timing.epoch(batch, stage.data_fraction),
            _least_steps(stage, planned) * timing.step(batch),
        )
        for batch in batches
    )
    judged = epochs * (timing.evaluation() + PER_EPOCH) if stage.ranks else 0.0
    return trained + judged + beside


def likely_epochs(stage: Stage, planned: Forecast) -> float:
    """Epochs as they usually come out: as the stage says, or with a pruner a part of the most."""
    if planned.likely_epochs is not None:
        return float(planned.likely_epochs)
    return planned.epochs * (PRUNED if stage.pruner is not None else 1.0)


def _least_steps(stage: Stage, planned: Forecast) -> int:
    """Optimizer steps of a stage that counts them."""
    if stage.budget is not None and stage.budget.steps is not None:
        return planned.trials * stage.budget.steps
    return planned.least_steps


def batch_sizes(study: StudySpec, stage: Stage) -> list[float]:
    """Batches of a stage's trials, evenly over its space; samples of a step, accumulation included."""
    space, held = stage.open_space(study), stage.held(study)
    accumulation = _number(held.get("accumulation", 1))
    if "batch_size" not in space:
        usual = HYPERPARAMETERS["batch_size"].default
        return [_number(held.get("batch_size", usual)) * accumulation]
    parameter = space["batch_size"]
    axis = (getattr(stage, "axes", None) or {}).get("batch_size")
    if isinstance(axis, tuple) and axis:
        values: Sequence[Scalar] = axis
    elif isinstance(parameter, Choice):
        values = parameter.values
    else:
        values = [parameter.value(place) for place in _PLACES]
    return [_number(value) * accumulation for value in values]


def _number(value: Scalar | None) -> float:
    return max(float(value), 1.0) if isinstance(value, int | float) else 1.0
