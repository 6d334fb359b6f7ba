"""The border rule where there is no grid: the best near an end of a log range ask for a decade more.

Source: Google's tuning playbook; the outer tenth, the decade and twice at most as in the recipe, §1.3.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tunesmith_studies.space import Float, Space, tidy
from tunesmith_studies.stages.border import AT_LEAST, TOP, Side
from tunesmith_studies.trial import Trial
from tunesmith_studies.vocabulary import HYPERPARAMETERS

OUTER = 0.1
"""Share of a range, on its log scale, that counts as its border."""
DECADE = 10.0
MOST = 2
"""Times that a range may grow on one side."""


@dataclass(frozen=True, slots=True)
class Batch:
    """What a batch left: the best trials so far, best first, and all that were tried so far."""

    best: Sequence[Trial]
    tried: Sequence[Trial]


def wider(space: Space, batches: Sequence[Batch]) -> Space:
    """The space after some batches, each of which may move each end of each log range by a decade.

    Whole numbers stay as they are: widths and batches that grow tenfold cost what nobody has asked for.
    """
    root = {
        name: _grown(name, axis, batches) if isinstance(axis, Float) and axis.log else axis
        for name, axis in space.items()
    }
    return Space.model_construct(root=root)


def _grown(name: str, axis: Float, batches: Sequence[Batch]) -> Float:
    # Below a log range with a zero lies the zero.
    sides: tuple[Side, ...] = ("high",) if axis.zero else ("low", "high")
    for side in sides:
        times = 0
        for batch in batches:
            if times < MOST and _asks(name, axis, side, batch):
                axis, times = _one_more(name, axis, side), times + 1
    return axis


def _asks(name: str, axis: Float, side: Side, batch: Batch) -> bool:
    """Whether the best, or two of the best three, lie on the border, and nothing diverged there."""
    on = [t for t in batch.best[:TOP] if _is_outer(name, axis, side, t)]
    if not on or not (on[0] is batch.best[0] or len(on) >= AT_LEAST):
        return False
    return not any(t.is_diverged and _is_outer(name, axis, side, t) for t in batch.tried)


def _is_outer(name: str, axis: Float, side: Side, trial: Trial) -> bool:
    value = trial.params.get(name)
    if not isinstance(value, int | float) or value <= 0:
        return False
    place = axis.positive().position(value)
    return place < OUTER if side == "low" else place > 1 - OUTER


def _one_more(name: str, axis: Float, side: Side) -> Float:
    known = HYPERPARAMETERS.get(name)
    if side == "low":
        return axis.model_copy(update={"low": tidy(axis.low / DECADE)})
    high = tidy(axis.high * DECADE)
    return axis.model_copy(update={"high": min(high, known.high) if known is not None else high})
