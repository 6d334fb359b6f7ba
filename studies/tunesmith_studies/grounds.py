"""Where a stage's trials lie and what put them there, for people and programs to read."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from tunesmith_studies.space import Choice, Float, Int, Params, Scalar, Space

Range: TypeAlias = tuple[float, float]


@dataclass(frozen=True, slots=True)
class Grounds:
    """
    Attributes:
        ranges: by parameter that is a number and varies, the lowest and the highest value of its trials.
        steps: for people, how far values lie apart where they were placed around others: `0.5 decades`.
        source: the stage that they were placed by, if one did.
        trials: numbers of the source's trials that they lie around, best first.
    """

    ranges: Mapping[str, Range]
    steps: Mapping[str, str] = field(default_factory=dict)
    source: str | None = None
    trials: tuple[int, ...] = ()

    def to_json(self) -> dict[str, Any]:
        return {
            "ranges": {name: list(ends) for name, ends in self.ranges.items()},
            "steps": dict(self.steps),
            "source": self.source,
            "trials": list(self.trials),
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Grounds:
        ranges = {name: (ends[0], ends[1]) for name, ends in data["ranges"].items()}
        return cls(ranges, data["steps"], data["source"], tuple(data["trials"]))

    def shown(self) -> str:
        """
        >>> Grounds({"lr": (0.001, 0.1)}, {"lr": "0.5 decades"}, "coarse", (12, 13)).shown()
        'lr 0.001–0.1 in steps of 0.5 decades, around trials 12 and 13 of coarse'
        """
        said = []
        for name, (low, high) in self.ranges.items():
            step = f" in steps of {self.steps[name]}" if name in self.steps else ""
            said.append(f"{name} {low:.4g}–{high:.4g}{step}")
        if self.source is not None and self.trials:
            said.append(f"around {_listed(self.trials)} of {self.source}")
        return ", ".join(said)


def _listed(trials: Sequence[int]) -> str:
    names = [str(n) for n in trials]
    if len(names) == 1:
        return f"trial {names[0]}"
    return f"trials {', '.join(names[:-1])} and {names[-1]}"


def of_space(space: Space) -> Grounds:
    """Of a stage that draws from the whole of this space."""
    return Grounds(
        {
            name: (0.0 if isinstance(p, Float) and p.zero else p.low, p.high)
            for name, p in space.items()
            if not isinstance(p, Choice)
        }
    )


def of_points(points: Iterable[Params], names: Iterable[str]) -> dict[str, Range]:
    """The ends of those of these parameters that are numbers, of what has them."""
    values: dict[str, list[float]] = {name: [] for name in names}
    for params in points:
        for name, found in values.items():
            value = params.get(name)
            if isinstance(value, int | float) and not isinstance(value, bool):
                found.append(value)
    return {name: (min(found), max(found)) for name, found in values.items() if found}


def step_shown(parameter: Float | Int, centre: Scalar, values: Iterable[Scalar]) -> str | None:
    """How far the nearest of `values` lies from `centre`, on the parameter's scale; None where that has no
    meaning, as for a zero beside a log range, or there is no other.

    >>> step_shown(Float(low=1e-4, high=1.0, log=True), 0.01, [0.01, 0.1])
    '1 decade'
    >>> step_shown(Float(low=0.0, high=0.5), 0.25, [0.0, 0.25, 0.3])
    '0.05'
    """
    assert isinstance(centre, int | float)
    others = [v for v in values if isinstance(v, int | float) and v != centre]
    if parameter.log:
        ratios = [abs(math.log10(v / centre)) for v in others if v > 0 and centre > 0]
        nearest = f"{min(ratios):.2g}" if ratios else None
        return nearest and f"{nearest} decade{'s' if nearest != '1' else ''}"
    return f"{min(abs(v - centre) for v in others):.4g}" if others else None
