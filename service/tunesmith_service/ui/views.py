"""What the templates show of a study, worked out from rows: no SQL here, and no HTML.

Rows come as `store` reads them; times are microseconds. Stages are in `stage_cards`, trials in `trial_rows`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from tunesmith_studies.findings import Finding, gravest_first
from tunesmith_studies.space import Scalar
from tunesmith_studies.trial import StudyState, TrialState

from tunesmith_service.findings import of_stage
from tunesmith_service.store import StageRow

STATES = tuple(str(s) for s in TrialState)


@dataclass(frozen=True, slots=True)
class Best:
    """The best complete trial of a study or stage."""

    number: int
    value: float
    stage: str
    params: list[tuple[str, Scalar]] = field(default_factory=list)  # those that vary
    command: str = ""  # which queues its settings again


@dataclass(frozen=True, slots=True)
class Found:
    """What one stage's trials showed, the gravest first."""

    stage: str
    findings: list[Finding]


def found(rows: Sequence[StageRow]) -> list[Found]:
    """By stage, in their order; stages that found nothing are left out. What was checked and is sound
    stands at the end of each."""
    by_stage = [Found(row.name, list(gravest_first(of_stage(row)))) for row in rows]
    return [each for each in by_stage if each.findings]


@dataclass(frozen=True, slots=True)
class Move:
    """A button that changes a study's state, behind a question."""

    verb: str
    label: str
    question: str
    meaning: str
    risky: bool = False

    @property
    def name(self) -> str:
        """For ids of elements."""
        return self.verb.replace("/", "-")


def varied(spec: Mapping[str, Any]) -> list[str]:
    """Names of the hyperparameters that the study varies, in its own order."""
    return list(spec.get("space", {}))


def moves(state: str, running: int, waiting: int, *, is_blocked: bool = False) -> list[Move]:
    """What a person may do with a study in this state; one that is blocked is overridden, not resumed."""
    pause = Move(
        "pause", "Pause…", "Pause this study?", "No new trial starts; those that run go on to their end."
    )
    resume = Move("resume", "Resume…", "Resume this study?", "Its waiting trials are handed out again.")
    stop = Move(
        "stop",
        "Stop…",
        "Stop this study for good?",
        f"Trials that run ({running}) or wait ({waiting}) are cancelled, and the stages that are left are "
        "skipped. What has been found stays. A stopped study cannot be resumed.",
        risky=True,
    )
    paused = [stop] if is_blocked else [resume, stop]
    return {StudyState.ACTIVE: [pause, stop], StudyState.PAUSED: paused}.get(StudyState(state), [])
