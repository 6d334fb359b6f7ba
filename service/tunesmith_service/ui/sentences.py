"""A study's log for people: each entry a sentence that says who did what."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tunesmith_service.event_log import Event
from tunesmith_service.ui import formats

KINDS = {
    "moved": "trials", "planned": "plans", "stage": "stages", "study": "study", "snapshot": "snapshots",
    "redrawn": "redrawn", "forgotten": "forgotten", "test_read": "test set",
}  # fmt: skip
"""What people filter by: kinds of entries and their names."""

_LOST = {"expired": "stopped answering", "reboot": "started anew"}
_REASONS = {
    "early_stopping": "early, as it no longer got better", "plateau": "at its plateau",
    "budget": "at the end of its budget",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Said:
    """One entry. `word` is the state that it led to, for an icon; `trial` a number to link to."""

    n: int
    at_us: int
    who: str
    word: str
    trial: int | None
    stage: str | None
    sentence: str  # after the trial's number, where it has one


def said(event: Event, workers: Mapping[str, str]) -> Said:
    """Args: workers: names by id."""
    who = actor(event.actor, workers)
    word, sentence = _SENTENCES.get(event.kind, _other)(event, who)
    return Said(event.n, event.at_us, who, word, event.trial_number, event.stage, sentence)


def actor(written: str, workers: Mapping[str, str]) -> str:
    """
    >>> actor("worker 0a", {"0a": "gpu-a"}), actor("planner", {}), actor("researcher:Ann", {})
    ('worker gpu-a', 'planner', 'Ann')
    """
    kind, _, name = written.partition(" ")
    if kind == "worker" and name:
        return f"worker {workers.get(name, name[:8])}"
    return written.partition(":")[2] or written


def _moved(event: Event, who: str) -> tuple[str, str]:
    data = event.data
    to, attempt, reason = data.get("to"), data.get("attempt"), data.get("stop_reason")
    if to == "running":
        resumed = f", from {data['resume_step']} on" if data.get("resume_step") else ""
        return "running", f"was taken by {who} as attempt {attempt}{resumed}"
    if to == "waiting":
        cause = str(event.cause or "")
        if cause in _LOST:
            return "waiting", f"was lost: its worker {_LOST[cause]}; it waits for another attempt"
        why = {"retry": "failed and will be tried again", "preempted": "was handed back: preempted"}
        return "waiting", f"{why.get(cause, 'was handed back')}; it waits for another attempt"
    if to == "complete":
        value = formats.number(data["value"]) if data.get("value") is not None else None
        ended = _REASONS.get(str(reason), "")
        return "complete", f"completed {ended}".strip() + (f" with {value}" if value else "")
    if to == "pruned":
        return "pruned", "diverged" if reason == "diverged" else f"was pruned by {who}"
    return str(to), {"failed": "failed", "cancelled": f"was cancelled by {who}"}.get(str(to), f"became {to}")


def _planned(event: Event, who: str) -> tuple[str, str]:
    start = event.data.get("start")
    on = f", to go on from #{start['trial']} at {start['step']}" if start else ""
    return "waiting", f"was planned by {who}{on}: {_settings(event.data.get('params') or {})}"


def _redrawn(event: Event, who: str) -> tuple[str, str]:
    return (
        "waiting",
        f"was drawn anew by {who}, as more is known now: {_settings(event.data.get('params') or {})}",
    )


def _stage(event: Event, who: str) -> tuple[str, str]:
    data = event.data
    if data.get("override"):
        return "active", f"Stage {event.stage} was overridden by {who}: {data['override'].get('reason', '')}"
    state = str(data.get("state") or "")
    if state in ("", "pending"):
        return "pending", f"Stage {event.stage} was added by {who}"
    why = f": {data['reason']}" if data.get("reason") else ""
    words = {"active": "began", "done": "is done", "skipped": "was skipped", "failed": "failed"}
    return state, f"Stage {event.stage} {words.get(state, state)}{why}"


def _study(event: Event, who: str) -> tuple[str, str]:
    state = str(event.data.get("state") or "")
    if event.n == 1:
        cloned = event.data.get("cloned_from")
        from_ = "" if cloned is None else f", cloned from study {cloned}"
        return "active", f"The study was created by {who}{from_}"
    why = f": {event.data['reason']}" if event.data.get("reason") else ""
    words = {"active": "goes on", "paused": "was paused", "complete": "is complete", "stopped": "was stopped"}
    return state, f"The study {words.get(state, state)}, by {who}{why}"


def _other(event: Event, who: str) -> tuple[str, str]:
    step = event.data.get("step")
    told = {
        "snapshot": f"left a snapshot at {step}",
        "forgotten": f"snapshot at {step} was deleted by {who}: nothing needs it any more",
        "test_read": f"read the test set, as read no. {event.data.get('nth')} of this project",
    }
    return "info", told.get(event.kind, f"{event.kind.replace('_', ' ')}, by {who}")


def _settings(params: Mapping[str, Any]) -> str:
    return ", ".join(f"{n} {formats.number(v, pad=False)}" for n, v in list(params.items())[:8])


_SENTENCES = {"moved": _moved, "planned": _planned, "redrawn": _redrawn, "stage": _stage, "study": _study}
