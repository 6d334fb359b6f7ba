"""The stage that would go on past an edge on which the best trial lies.

Source: Google's tuning playbook (a space is suspicious if its best points lie close to its border); one step
as in the recipe, §1.3: a grid's own, a decade where there is no grid.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tunesmith_studies.space import Float, Int
from tunesmith_studies.stages.base import Stage
from tunesmith_studies.stages.border import Side, step_beyond
from tunesmith_studies.trial import Trial
from tunesmith_studies.written import short

POINTS = 3
"""The best once more, half a step and a step beyond it."""
DECADE = 10.0
PARTS = 4
"""Points of a linear range without a grid, whose last gap is its step."""
LENGTH = ("epochs", "budget", "validate_every", "data_fraction")
"""What makes a stage's trials as long as those of another."""


def proposed(
    stage: Stage,
    best: Trial,
    trials: Sequence[Trial],
    *,
    name: str,
    parameter: Float | Int,
    side: Side,
    grid: Sequence[float] = (),
) -> dict[str, Any] | None:
    """A stage as JSON that tries one step beyond the best along this axis, all else as in the best trial.

    None where the hyperparameter itself ends there, or where trials diverged on that side: more room cures
    no instability.

    Args:
        grid: the values of the axis, ascending, if it was one of a grid.
    """
    value = best.params[name]
    assert isinstance(value, int | float)
    if any(t.is_diverged and _is_past(t.params, name, value, side) for t in trials):
        return None
    tried = [v for v in grid if v > 0 or not parameter.log]
    beyond = step_beyond(name, parameter, tried if len(tried) > 1 else _last_step(parameter, side), side)
    if beyond is None:
        return None
    assert isinstance(beyond, int | float)
    length = short(stage)
    return {
        "kind": "coarse_grid",
        "name": f"{name}_beyond",
        "source": stage.name,
        **{word: length[word] for word in LENGTH if word in length},
        "around_best": True,
        "axes": {name: POINTS},
        "ranges": {name: sorted([value, beyond])},
    }


def _is_past(params: Mapping[str, Any], name: str, best: float, side: Side) -> bool:
    value = params.get(name)
    return isinstance(value, int | float) and (value >= best if side == "high" else value <= best)


def _last_step(parameter: Float | Int, side: Side) -> list[float]:
    """The end of a range and a value one step inside, ascending."""
    end = parameter.high if side == "high" else parameter.low
    if parameter.log:
        inner = end / DECADE if side == "high" else end * DECADE
    else:
        inner = parameter.grid(PARTS)[-2 if side == "high" else 1]
    return sorted([float(inner), float(end)])
