"""How long a study's stages will take, from what preflight measured of a step, an evaluation and a build.

Slot-seconds: what one slot would take for all of a stage's trials, one after the other. By the clock it is
that over the slots that work; in GPU-hours it is that times a slot's devices over 3600.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from statistics import fmean
from typing import TYPE_CHECKING, Any

from tunesmith_studies.checks.said import Measured
from tunesmith_studies.space import Choice, Float, Int, Scalar, Space
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
AT_AN_END = 1 / 6
"""Weight of each end of what varies, 4/6 the middle's: Simpson's rule."""
_PLACES = (0.1, 0.3, 0.5, 0.7, 0.9)
"""Where on its scale a number that varies is looked at."""


@dataclass(frozen=True, slots=True)
class Costs:
    """Seconds at one point of the space, or a mean over several.

    Attributes:
        fixed, sample: a step on a batch takes fixed + sample · batch.
        evaluate: evaluating the validation split once.
        build: a model and its optimizer, and what the first step takes more than others.
        snapshot: writing one.
    """

    fixed: float
    sample: float
    evaluate: float
    build: float
    snapshot: float

    def step(self, batch: float) -> float:
        return self.fixed + self.sample * batch

    def epoch(self, batch: float, samples: float) -> float:
        """One pass over so many samples, evaluation left out."""
        return self.fixed * math.ceil(samples / batch) + self.sample * samples


@dataclass(frozen=True, slots=True)
class Place:
    """Where in the space something was timed.

    Attributes:
        along: 0, 0.5 or 1: all that shapes the model is at its lowest, in the middle, at its highest.
        choice: the one choice that differs from the middle's, and its value.
        share: part of all points that have this choice.
    """

    along: float = 0.5
    choice: tuple[str, Scalar] | None = None
    share: float = 0.0


@dataclass(frozen=True, slots=True)
class Timing:
    """What preflight measured of times.

    Attributes:
        points: places and costs, the middle first.
        spans: hyperparameters that go from their lowest to their highest along the places.
        train_samples: of the training split.
    """

    points: tuple[tuple[Place, Costs], ...]
    spans: tuple[str, ...]
    train_samples: int

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Timing:
        points = []
        for place, costs in data["points"]:
            choice = tuple(place["choice"]) if place["choice"] is not None else None
            points.append((Place(place["along"], choice, place["share"]), Costs(**costs)))
        return cls(tuple(points), tuple(data["spans"]), data["train_samples"])

    def of(self, space: Space, held: Mapping[str, Scalar]) -> Costs:
        """Costs in the mean of the points of `space` that have what is held."""
        along = None
        if self.spans and all(name in held for name in self.spans):
            along = fmean(_position(space, name, held[name]) for name in self.spans)
        weights = [self._weight(place, along, held) for place, _ in self.points]
        weights[0] += max(1 - math.fsum(weights), 0.0)
        whole = math.fsum(weights)

        def mean(name: str) -> float:
            costs = (float(getattr(c, name)) for _, c in self.points)
            found = [(weight / whole, cost) for weight, cost in zip(weights, costs, strict=True)]
            return _between(found) if along is not None else math.fsum(w * cost for w, cost in found)

        return Costs(*(mean(field.name) for field in fields(Costs)))

    def _weight(self, place: Place, along: float | None, held: Mapping[str, Scalar]) -> float:
        """Of all but the middle, which gets what is left."""
        if place.choice is not None:
            name, value = place.choice
            return float(held[name] == value) if name in held else place.share
        if place.along == 0.5:
            return 0.0
        if along is None:
            return AT_AN_END
        return max(1 - 2 * abs(along - place.along), 0.0)


def _between(weighted: Sequence[tuple[float, float]]) -> float:
    """A cost between two places: by ratio, for costs grow as powers of a width; in a straight line where one
    is nothing."""
    found = [(w, cost) for w, cost in weighted if w > 0]
    if all(cost > 0 for _, cost in found):
        return math.exp(math.fsum(w * math.log(cost) for w, cost in found))
    return math.fsum(w * cost for w, cost in found)


def _position(space: Space, name: str, value: Scalar) -> float:
    if name not in space:
        return 0.5
    parameter = space[name]
    if not isinstance(parameter, Float | Int) or not parameter.contains(value):
        return 0.5
    return parameter.position(float(value))


def timing_of(measured: Sequence[tuple[Place, Measured]], spans: Sequence[str]) -> Timing | None:
    """From the tables of preflight's trials, the middle's first; None if that has no times."""
    if not measured or "time/fixed" not in measured[0][1]:
        return None
    first = measured[0][1]
    waiting = first.get("time/waiting", 1.0)  # the middle was measured longest
    points = tuple(
        (
            place,
            Costs(
                fixed=waiting * m["time/fixed"],
                sample=waiting * m["time/sample"],
                evaluate=waiting * m.get("time/evaluate", 0.0),
                build=waiting * (m.get("time/build", 0.0) + m.get("time/first", 0.0)),
                snapshot=m.get("time/snapshot", 0.0),
            ),
        )
        for place, m in measured
        if "time/fixed" in m
    )
    return Timing(points, tuple(spans), int(first["time/train_samples"]))


def forecast_seconds(study: StudySpec, timing: Timing) -> dict[str, float]:
    """Slot-seconds of each stage, by name, of all but those that have nothing to train."""
    planned: dict[str, Forecast] = {}
    for stage in study.stages:
        planned[stage.name] = stage.forecast(study, planned)
    return {s.name: stage_seconds(study, s, planned[s.name], timing) for s in study.stages}


def stage_seconds(study: StudySpec, stage: Stage, planned: Forecast, timing: Timing) -> float:
    """Slot-seconds of one stage of which so much is planned."""
    costs = timing.of(study.space, stage.held(study))
    samples = stage.data_fraction * timing.train_samples
    trained = fmean(_trained(stage, planned, costs, b, samples) for b in batch_sizes(study, stage))
    return trained + planned.trials * (costs.build + PER_TRIAL) + planned.snapshots * costs.snapshot


def _trained(stage: Stage, planned: Forecast, costs: Costs, batch: float, samples: float) -> float:
    """Seconds of a stage's steps and of the evaluations of what they trained."""
    epochs, steps = likely_epochs(stage, planned), math.ceil(samples / batch)
    if stage.budget is not None and not stage.budget.in_epochs:  # or so many epochs, whichever come first
        most = (stage.budget.seconds or 0.0) / max(costs.epoch(batch, samples), 1e-9)
        epochs *= min((stage.budget.steps or 0) / steps + most, stage.epochs) / stage.epochs
    trained = max(epochs * costs.epoch(batch, samples), planned.least_steps * costs.step(batch))
    if not stage.ranks:
        return trained
    points = epochs if stage.counts_epochs else max(epochs, planned.trials)  # one at its end, each
    points += epochs * steps / stage.validate_every if stage.validate_every else 0.0
    return trained + points * (costs.evaluate + PER_EPOCH)


def likely_epochs(stage: Stage, planned: Forecast) -> float:
    """Epochs as they usually come out: as the stage says, or with a pruner a part of the most."""
    if planned.likely_epochs is not None:
        return float(planned.likely_epochs)
    return planned.epochs * (PRUNED if stage.pruner is not None else 1.0)


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
