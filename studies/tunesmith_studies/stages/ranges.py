"""A stage's own ranges: where it looks instead of in the space's, and past it."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING

from tunesmith_studies.space import Choice, Float, Int

if TYPE_CHECKING:
    from tunesmith_studies.stages.base import Stage
    from tunesmith_studies.study import StudySpec


def range_problems(stage: Stage, study: StudySpec) -> Iterator[str]:
    """What is wrong with a stage's own ranges in this study, a sentence each with what to do."""
    if stage.ranges and not stage.takes_ranges:
        yield f"a {stage.kind} looks around what earlier stages found and takes no ranges; leave them out"
        return
    for name, (low, high) in stage.ranges.items():
        parameter = study.space.root.get(name)
        if name in stage.held(study):
            yield f"ranges names {name}, which is fixed; leave it in one of them"
        elif parameter is None:
            known = ", ".join(study.space.names()) or "none"
            yield f"ranges names {name}, which is not in the space; add it there, or use one of: {known}"
        elif isinstance(parameter, Choice):
            yield f"ranges names {name}, which is a choice without an order; leave it out"
        else:
            yield from _bad_ends(name, parameter, low, high)


def _bad_ends(name: str, parameter: Float | Int, low: float, high: float) -> Iterator[str]:
    if not (math.isfinite(low) and math.isfinite(high)):
        yield f"the range of {name} must be finite, got [{low:g}, {high:g}]"
    elif low > high:
        yield f"the range of {name} has its low end above its high one: [{low:g}, {high:g}]"
    elif parameter.log and low <= 0:
        yield f"{name} is on a log scale, so its range must begin above 0, got [{low:g}, {high:g}]"
    elif isinstance(parameter, Int) and not (isinstance(low, int) and isinstance(high, int)):
        yield f"{name} is a whole number, so both ends of its range are, got [{low:g}, {high:g}]"
