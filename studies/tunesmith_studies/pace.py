"""How much longer a study runs, by how long its trials have taken of late.

Where `times` forecasts from what preflight measured of a step, this goes by trials that have ended. A trial
of a stage that has ended some takes as long as those did; of others, as long as its epochs ask for at the
same pace, or as its forecast by preflight stands to theirs.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import TYPE_CHECKING

from tunesmith_studies.study import StudySpec, forecast
from tunesmith_studies.times import likely_epochs

if TYPE_CHECKING:
    from tunesmith_studies.stages.base import Forecast, Stage

HALF = 0.5
"""Of a trial that runs, the part that is left, not knowing."""


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a stage is.

    Attributes:
        ended, running, waiting: numbers of its trials.
        is_over: it is done, failed or skipped.
        took: seconds that trials of it which ended lately took; of those that train alone.
        forecast: slot-seconds of all its trials, by preflight.
    """

    ended: int = 0
    running: int = 0
    waiting: int = 0
    is_over: bool = False
    took: Sequence[float] = ()
    forecast: float | None = None


def seconds_left(study: StudySpec, stages: Mapping[str, Progress], at_once: int) -> float | None:
    """By the clock, until the study's last stage ends, as stages usually come out.

    Args:
        stages: by name, of all the study's stages.
        at_once: how many of its trials run at a time.

    Returns: None if nothing can be said: none of its trials run or could, or none that trains has ended and
        no preflight has measured.
    """
    planned = forecast(study)
    likely = {s.name: _likely_trials(planned[s.name]) for s in study.stages}
    left = [s for s in study.stages if not stages[s.name].is_over]
    takes = _per_trial(study, stages, planned, likely)
    if at_once < 1 or takes is None:
        return None
    more = _most_more(study, stages)
    seconds = 0.0
    for stage in left:
        now = stages[stage.name]
        begun = now.running + now.waiting
        trials = min(max(likely[stage.name] - now.ended, begun), begun + more)
        more -= trials - begun
        seconds += _rounds(trials, now.running, at_once) * takes(stage)
    return seconds


def _rounds(trials: float, running: int, at_once: int) -> float:
    """How many trials' time so many take, of which some run already: the last of them sets the end."""
    least = 0.0 if not trials else HALF if trials <= running else 1.0
    return max((trials - HALF * running) / at_once, least)


def _most_more(study: StudySpec, stages: Mapping[str, Progress]) -> float:
    """Trials that the study may still plan."""
    if study.limits.max_trials is None:
        return math.inf
    return max(study.limits.max_trials - sum(s.ended + s.running + s.waiting for s in stages.values()), 0)


def _per_trial(
    study: StudySpec,
    stages: Mapping[str, Progress],
    planned: Mapping[str, Forecast],
    likely: Mapping[str, int],
) -> Callable[[Stage], float] | None:
    """Seconds that a trial of a stage takes; None where nothing tells."""
    in_seconds = all(stages[s.name].forecast is not None for s in study.stages if s.ranks)

    def size(stage: Stage) -> float:
        whole = stages[stage.name].forecast if in_seconds else None
        if whole is None:
            whole = likely_epochs(stage, planned[stage.name]) * stage.data_fraction
        return whole / likely[stage.name]

    timed = [s for s in study.stages if s.ranks and stages[s.name].took]
    sizes = math.fsum(size(s) * len(stages[s.name].took) for s in timed)
    if sizes > 0:
        pace = math.fsum(t for s in timed for t in stages[s.name].took) / sizes
    elif in_seconds and any(s.ranks for s in study.stages):
        pace = 1.0
    else:
        return None
    return lambda stage: fmean(took) if (took := stages[stage.name].took) else size(stage) * pace


def _likely_trials(planned: Forecast) -> int:
    """As many of the most as its likely epochs are of the most epochs."""
    if planned.likely_epochs is None or not planned.epochs:
        return max(planned.trials, 1)
    return max(round(planned.trials * planned.likely_epochs / planned.epochs), 1)
