"""Buttons beside those of a study's course: what may be done again, put away, or ended early."""

from __future__ import annotations

from tunesmith_studies.trial import StageState, StudyState, TrialState

from tunesmith_service.trial_store import Trial
from tunesmith_service.ui.views import Move


def of_study(state: str, failed: int, *, is_archived: bool) -> list[Move]:
    """What a person may do with a study beside its course: failed trials again, put it away."""
    found = []
    if failed and state in (StudyState.ACTIVE, StudyState.PAUSED):
        found.append(
            Move(
                "rerun",
                "Rerun failed…",
                f"Try the failed trials again ({failed})?",
                "Each becomes a new trial that names the old one. Those of stages that have ended, and those "
                "tried again already, are left out.",
            )
        )
    if is_archived:
        found.append(Move("put/back", "Bring back…", "Bring it back?", "It stands in the list again."))
    elif state != StudyState.ACTIVE:
        found.append(
            Move("put/away", "Archive…", "Put this study away?", "The list leaves it out; nothing is lost.")
        )
    return found


def of_trial(row: Trial, stage: str) -> list[Move]:
    """What a person may do with a trial whose stage is in this state."""
    if row.kind != "train":
        return []
    if row.state == TrialState.RUNNING:
        meaning = "It ends as pruned, and its worker is told with its next report. What it showed counts."
        return [Move("prune", "Prune now…", "Prune this trial now?", meaning, risky=True)]
    is_open = stage in (StageState.PENDING, StageState.ACTIVE)
    if row.state in (TrialState.FAILED, TrialState.CANCELLED) and is_open:
        meaning = "A new trial with the same settings waits for a worker; this one stays as it is."
        return [Move("retry", "Try again…", "Try this trial again?", meaning)]
    return []
