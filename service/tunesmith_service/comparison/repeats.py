"""Compared trials that differ by their seed alone: their mean, its interval, and whether it is told apart."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tunesmith_studies import statistics

from tunesmith_service.comparison.named import OfTrial


@dataclass(frozen=True, slots=True)
class Repeat:
    """Trials of one configuration.

    Attributes:
        names: of the trials, as `1:55`.
        interval: where the mean of infinitely many seeds lies, with 95 %.
        to_first: differences to the first configuration over the seeds that both have; None for itself, where
            they share none, and where the objectives differ.
    """

    study: str
    stage: str
    metric: str
    names: list[str]
    spread: statistics.Spread
    interval: tuple[float, float]
    to_first: statistics.Paired | None


def repeats(found: Sequence[OfTrial]) -> list[Repeat]:
    """Configurations of which two trials or more with a value and different seeds are compared."""
    sets: dict[str, list[OfTrial]] = {}
    for c in found:
        if c.trial.value is not None:
            sets.setdefault(_but_seed(c), []).append(c)
    several = [same for same in sets.values() if len({_seed(c) for c in same}) > 1]
    return [_repeat(same, several[0]) for same in several]


def _but_seed(c: OfTrial) -> str:
    """All that decides how a trial comes out, but its seed."""
    work = {name: v for name, v in c.trial.work.items() if name not in ("seed", "keep_snapshot")}
    return json.dumps([c.study.id, c.trial.stage, c.trial.params, work, c.trial.start], sort_keys=True)


def _seed(c: OfTrial) -> Any:
    return c.trial.work.get("seed")


def _repeat(same: Sequence[OfTrial], first: Sequence[OfTrial]) -> Repeat:
    values = [c.trial.value for c in same if c.trial.value is not None]
    return Repeat(
        study=same[0].study.name,
        stage=same[0].trial.stage,
        metric=same[0].metric,
        names=[c.name for c in same],
        spread=statistics.spread(values),
        interval=statistics.interval(values),
        to_first=None if same is first else _paired(same, first),
    )


def _paired(same: Sequence[OfTrial], first: Sequence[OfTrial]) -> statistics.Paired | None:
    if (same[0].metric, same[0].direction) != (first[0].metric, first[0].direction):
        return None
    one, other = (
        {_seed(c): c.trial.value for c in each if c.trial.value is not None} for each in (same, first)
    )
    return statistics.paired(one, other) if one.keys() & other.keys() else None
