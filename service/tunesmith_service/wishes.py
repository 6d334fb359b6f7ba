"""What people may ask of studies and trials that are there already, as frozen values; see `commands`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tunesmith_service.once import Idempotency
from tunesmith_service.origin import Audited

# --- trials: `again` applies them -----------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Retry(Audited):
    """Queue failed or cancelled trials again, all or none, each as a new trial with `retry_of` and the key
    `key/retry:n`. Without numbers: all failed ones whose stage is still to run and that nobody has tried
    again yet. Outcome: the new numbers, or refused (conflict)."""

    study_id: int
    trials: tuple[int, ...] | None
    actor: str
    idempotency: Idempotency | None = None


@dataclass(frozen=True, slots=True)
class PruneNow(Audited):
    """A person ends a running trial as pruned; its worker is told by its next call. Outcome: Ended, also of
    one that has ended already, or refused (conflict)."""

    study_id: int
    trial: int
    actor: str


@dataclass(frozen=True, slots=True)
class ImportTrials(Audited):
    """Bring finished trials of elsewhere into a stage `imported`, all or none; a number that has come already
    is left as it is. Outcome: how many are new, or refused.

    A trial is {number, state, stop_reason, value, params, points: [{step, metrics}], attributes, error,
    started_us, ended_us}; metrics as they are stored.
    """

    study_id: int
    stage: str
    trials: tuple[Mapping[str, Any], ...]
    actor: str


# --- studies: `keeping` applies them --------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class PutAway(Audited):
    """Archive a study that is not active, or bring it back. Outcome: None, or refused (conflict)."""

    study_id: int
    archived: bool
    actor: str


@dataclass(frozen=True, slots=True)
class DeleteStudy(Audited):
    """Delete one piece of a study that has ended, its newest trials first; to be repeated until the outcome
    is True, so that a large study keeps no worker waiting. Outcome: whether nothing is left, or refused."""

    study_id: int
    name: str
    actor: str


@dataclass(frozen=True, slots=True)
class WriteNote(Audited):
    """Replace a study's note. Outcome: its new version, or refused (changed) if it is no longer `version`."""

    study_id: int
    text: str
    version: int
    actor: str


@dataclass(frozen=True, slots=True)
class TagTrials(Audited):
    """Give trials some tags, and take others away, all or none. Outcome: None, or refused."""

    study_id: int
    trials: tuple[int, ...]
    add: tuple[str, ...]
    remove: tuple[str, ...]
