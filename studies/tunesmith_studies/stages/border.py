"""The border rule: a best point on the edge of what was tried asks for one more step on that side.

Source: Google's tuning playbook (a space is suspicious if its best points lie close to its border);
the steps and their cost as in the recipe, §1.3.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

from tunesmith_studies.space import Float, Int, Scalar, Space, tidy
from tunesmith_studies.trial import Trial
from tunesmith_studies.vocabulary import HYPERPARAMETERS

Side: TypeAlias = Literal["low", "high"]
Numbers: TypeAlias = Sequence[float]

TOP, AT_LEAST = 3, 2
"""A side is a border if the best lies on it, or at least 2 of the best 3 do."""
SHARE = 0.2
"""Of a stage's trials, how many more at most are spent on going beyond its borders."""
SAME = 1e-9  # two places on a scale closer than this, relative to a step, are one


@dataclass(frozen=True, slots=True)
class Edge:
    """A side of an axis on which the best trials lie.

    Attributes:
        beyond: the value one step further.
        trials: those of the best that lie on the edge, best first.
    """

    name: str
    side: Side
    value: float
    beyond: Scalar
    trials: tuple[Trial, ...]

    def shown(self) -> str:
        """For people: `lr 0.3 → 1`."""
        return f"{self.name} {self.value:g} → {self.beyond:g}"


def most_beyond(trials: int) -> int:
    """How many trials a stage of so many may spend on its borders: a fifth, and at least one."""
    return max(1, int(SHARE * trials))


def edges(
    space: Space, axes: Mapping[str, Sequence[Scalar]], best: Sequence[Trial], tried: Sequence[Trial]
) -> Iterator[Edge]:
    """The borders that the best trials ask to cross.

    A side on which a trial diverged is none: there the training is unstable, which more room does not cure.

    Args:
        axes: the values of each axis that was tried.
        best: complete trials, best first; the first three count.
        tried: all trials, those that diverged among them.
    """
    for name, values in axes.items():
        parameter = space.root.get(name)
        if not isinstance(parameter, Float | Int):
            continue
        # A zero beside a log range is a point of its own: nothing lies below it, and below the rest lies it.
        has_zero = isinstance(parameter, Float) and parameter.zero and 0 in values
        numbers = sorted({float(v) for v in values if not isinstance(v, str) and not (has_zero and v == 0)})
        for side in _sides(numbers, has_zero):
            value = numbers[0] if side == "low" else numbers[-1]
            on = tuple(t for t in best[:TOP] if _lies_on(t, name, value))
            is_border = on and (on[0] is best[0] or len(on) >= AT_LEAST)
            if not is_border or any(t.is_diverged and _lies_on(t, name, value) for t in tried):
                continue
            beyond = step_beyond(name, parameter, numbers, side)
            if beyond is not None:
                yield Edge(name, side, value, beyond, on)


def _sides(numbers: Numbers, has_zero: bool) -> tuple[Side, ...]:
    if len(numbers) < 2:
        return ()
    return ("high",) if has_zero else ("low", "high")


def _lies_on(trial: Trial, name: str, value: float) -> bool:
    at = trial.params.get(name)
    return isinstance(at, int | float) and math.isclose(at, value, rel_tol=SAME)


def step_beyond(name: str, parameter: Float | Int, values: Numbers, side: Side) -> Scalar | None:
    """One step past the end of ascending `values` on the parameter's own scale, as long as the last gap;
    past the space if need be. None where the hyperparameter itself ends there."""
    end, inner = (values[0], values[1]) if side == "low" else (values[-1], values[-2])
    raw = end * (end / inner) if parameter.log else end + (end - inner)
    beyond: float = round(raw) if isinstance(parameter, Int) else tidy(raw)
    known = HYPERPARAMETERS.get(name)
    low = known.low if known is not None else (0.0 if parameter.low >= 0 else -math.inf)
    high = known.high if known is not None else math.inf
    if beyond == end or beyond < low or (parameter.low > 0 and beyond <= 0):
        return None
    # The upper bounds of shares (momentum, dropout) are limits that train nothing.
    return beyond if beyond < high else None


def widened(space: Space, tried: Mapping[str, Sequence[Scalar]]) -> dict[str, list[float]]:
    """The ranges [low, high] of parameters that were tried past the space, as `chosen.widened` has them."""
    found: dict[str, list[float]] = {}
    for name, values in tried.items():
        parameter = space.root.get(name)
        if not isinstance(parameter, Float | Int):
            continue
        numbers = [v for v in values if isinstance(v, int | float) and not parameter.contains(v)]
        if numbers:
            found[name] = [min(parameter.low, *numbers), max(parameter.high, *numbers)]
    return found
