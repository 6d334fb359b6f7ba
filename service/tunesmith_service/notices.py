"""Notifications, as frozen values: who is told, what is to be sent, what came of it; see `commands`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from tunesmith_service.origin import Audited

Event = Literal[
    "study_complete", "study_stopped", "study_paused", "stage_failed", "trial_failed", "new_best", "finding",
    "stuck",
]  # fmt: skip
"""What a target may want to hear of: a `finding` is one that says not to go on, `stuck` a study that has
trials to run and nobody who does."""


@dataclass(frozen=True, slots=True)
class AddTarget(Audited):
    """Tell somebody from now on. Outcome: None, or refused (conflict)."""

    name: str
    kind: str
    destination: str
    events: tuple[str, ...]
    secret: str | None  # of a webhook


@dataclass(frozen=True, slots=True)
class RemoveTarget(Audited):
    """Tell them no more; what was sent to them is forgotten. Outcome: None, or refused (not_found)."""

    name: str


@dataclass(frozen=True, slots=True)
class Notice:
    """One message to one target. `key` is new; the receiver sees it at each try."""

    target_id: int
    key: str
    event: str
    n: int
    body: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class QueueNotices:
    """What the events of a study behind `since`, up to `upto`, are worth telling. Outcome: whether they were
    queued; another server may have done so."""

    study_id: int
    since: int
    upto: int
    notices: tuple[Notice, ...] = ()


@dataclass(frozen=True, slots=True)
class QueueTest:
    """A message that says that it is a test. Outcome: None, or refused (not_found)."""

    name: str
    key: str
    body: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class TakeNotices:
    """Those that are due, at most so many, each for one server alone. One that is not ended within `hold_us`
    is due again. Outcome: a list of dicts (id, key, tries, event, body, kind, destination, secret)."""

    most: int
    hold_us: int


@dataclass(frozen=True, slots=True)
class EndNotice:
    """What try number `tries` came to; no later try of it may have begun. Outcome: whether that was so.

    `again_us`: try it again after so long; None: no more, it was delivered or has failed.
    """

    id: int
    tries: int
    delivered: bool
    said: str
    again_us: int | None = None
