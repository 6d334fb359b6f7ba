"""What can happen to an attempt; each is a value in its mailbox."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from tunesmith_service import wire
from tunesmith_service.client import TunesmithError

from tunesmith_workers.child_process import Death


@dataclass(frozen=True, slots=True)
class Said:
    message: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Refusal:
    refusal: TunesmithError
    by_delivery: bool


@dataclass(frozen=True, slots=True)
class Delivered:
    finished: wire.Finished


@dataclass(frozen=True, slots=True)
class HandBack:
    cause: str


@dataclass(frozen=True, slots=True)
class NoResume:
    kind: str
    reason: str


@dataclass(frozen=True, slots=True)
class Away:
    """Nothing was heard from the service for too long."""


@dataclass(frozen=True, slots=True)
class Stalled:
    """Nothing was heard from the child for too long."""


@dataclass(frozen=True, slots=True)
class TimeUp:
    of: Literal["abandon", "child", "release"]


@dataclass(frozen=True, slots=True)
class FlushLog:
    pass


@dataclass(frozen=True, slots=True)
class Bug:
    error: BaseException


Happening: TypeAlias = (
    Said | Death | Refusal | Delivered | HandBack | NoResume | Away | Stalled | TimeUp | FlushLog | Bug
)
