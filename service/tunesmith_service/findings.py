"""What stages have found, and what a person must know before believing a figure: pure, from rows."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tunesmith_studies import diagnosis
from tunesmith_studies.findings import GRAVEST_FIRST, Finding
from tunesmith_studies.study import StudySpec
from tunesmith_studies.trial import Point

from tunesmith_service import trial_store
from tunesmith_service.store import Slots, StageRow
from tunesmith_service.trial_store import ReadOfTest, Trial


@dataclass(frozen=True, slots=True)
class StageFinding:
    """A finding and the stage whose result holds it."""

    stage: str
    finding: Finding


def of_stages(
    stages: Iterable[StageRow], *, stage: str | None = None, level: str | None = None
) -> list[StageFinding]:
    """The gravest first; those of one level in the order of the stages."""
    found = [
        StageFinding(row.name, finding)
        for row in stages
        if stage in (None, row.name)
        for finding in of_stage(row)
        if level in (None, finding.level)
    ]
    return sorted(found, key=lambda f: GRAVEST_FIRST.index(f.finding.level))


def of_stage(row: StageRow) -> tuple[Finding, ...]:
    return tuple(Finding.from_json(f) for f in (row.result or {}).get("findings", ()))


def of_trial(
    row: Trial, curve: Sequence[Point], study: StudySpec, stages: Iterable[StageRow]
) -> tuple[Finding, ...]:
    """What a trial's curve shows so far, judged by what a preflight among `stages` has measured."""
    measured = [((s.result or {}).get("chosen") or {}).get("prior_entropy") for s in stages]
    chance = next((float(c) for c in measured if isinstance(c, int | float)), None)
    return diagnosis.of_trial(trial_store.as_planned(row, curve), study, chance=chance)


def test_set_warnings(task: str, reads: Sequence[ReadOfTest]) -> list[str]:
    """A sentence for each read of the test split that was not the first in the project."""
    return [
        f"Trial #{read.trial} ({read.stage}) was the {ordinal(read.nth)} of this project to read the test "
        f"split of task {task}: each look makes its figures more optimistic. Trust the first, or test on "
        "data that nothing was chosen by."
        for read in reads
        if read.nth > 1
    ]


def ordinal(n: int) -> str:
    """
    >>> [ordinal(n) for n in (1, 2, 3, 4, 11, 22, 113)]
    ['1st', '2nd', '3rd', '4th', '11th', '22nd', '113th']
    """
    if n % 100 in (11, 12, 13):
        return f"{n}th"
    return f"{n}{ {1: 'st', 2: 'nd', 3: 'rd'}.get(n % 10, 'th') }"


@dataclass(frozen=True, slots=True)
class StageTime:
    """How long a stage will take by what preflight measured.

    Attributes:
        seconds: by the clock, on the slots that are there.
        gpu_hours: of all its slots' devices together.
    """

    seconds: float
    gpu_hours: float


def stage_times(stages: Iterable[StageRow], slots: Slots) -> dict[str, StageTime]:
    """By stage, as the newest preflight forecasts in slot-seconds; empty before one has measured."""
    found: dict[str, StageTime] = {}
    for row in stages:
        forecast: Mapping[str, Any] = ((row.result or {}).get("numbers") or {}).get("forecast") or {}
        for name, told in forecast.items():
            slot_seconds = told.get("seconds") if isinstance(told, Mapping) else None
            if slot_seconds is not None:
                found[name] = StageTime(
                    float(slot_seconds) / max(slots.count, 1), float(slot_seconds) * slots.devices / 3600
                )
    return found
