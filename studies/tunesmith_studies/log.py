"""A study's event log, and the history that it tells.

The service writes an entry for every proposal, change of state, report and committed snapshot, and
gives each a number `n` under the study's row lock: 1, 2, 3, … without gaps. `StudyLog` folds
entries into the histories that stages plan from. The planner process feeds it increments; a test
that replays a decision feeds it the log cut at the proposal's `planned_at`. It is the same fold.

What `data` holds, by kind (JSON; non-finite numbers as "NaN", "Infinity", "-Infinity"):
  study      {state, reason}
  stage      {state, reason, result}          the stage named by `stage` changed; result once done
  planned    {key, ordinal, params, work, start, sampler_state, planned_at, draft, hand, retry_of}
  redrawn    {params, sampler_state, planned_at, old_params, old_planned_at}
  moved      {from, to, attempt, cause, stop_reason, value, resume_step}
             to running: the points after `resume_step` (0 without a snapshot) are thrown away
  reported   {attempt, seq, points: [{step, metrics}]}
  snapshot   {step, attempt}                  committed
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

EntryKind = Literal["study", "stage", "planned", "redrawn", "moved", "reported", "snapshot"]


@dataclass(frozen=True, slots=True)
class Entry:
    """One line of a study's log.

    Attributes:
        n: its number within the study.
        kind: what happened; see the module's table for `data`.
        trial: number of the trial it is about, or None.
        stage: name of the stage it is about, or None.
    """

    n: int
    kind: EntryKind
    trial: int | None
    stage: str | None
    data: Mapping[str, Any]
