"""Trials as tables show them, and a trial's hyperparameters and attempts as its page does."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tunesmith_studies.space import Choice, Scalar
from tunesmith_studies.study import StudySpec
from tunesmith_studies.trial import TrialState, Work

from tunesmith_service.trial_store import Trial
from tunesmith_service.ui import formats


@dataclass(frozen=True, slots=True)
class TrialRow:
    number: int
    state: str
    stage: str
    value: float | None
    newest: float | None  # the objective's metric in the newest report
    params: Mapping[str, Scalar]
    step: int
    unit: str  # what `step` counts: epoch or step
    done: str  # such as 3/5 epochs
    progress: float | None  # percent; None where nobody can say
    time_us: int | None
    note: str
    start: Mapping[str, int] | None  # the trial and step whose snapshot it goes on from
    is_best: bool
    measures: bool  # for its stage: it has no value
    test_read: int | None  # it was the nth of its project to read the task's test split


def trial_row(row: Trial, metric: str, best: int | None, now_us: int) -> TrialRow:
    """A row of the table of trials."""
    work = Work.from_json(row.work)
    newest = (row.last_metrics or {}).get(metric)
    return TrialRow(
        number=row.number,
        state=row.state,
        stage=row.stage,
        value=row.value,
        newest=newest if isinstance(newest, float | int) else None,
        params=row.params,
        step=row.step,
        unit=work.unit,
        done=done(row),
        progress=_progress(row, work),
        time_us=time_of(row, now_us),
        note=note(row),
        start=row.start,
        is_best=row.number == best,
        measures=work.kind != "train",
        test_read=row.test_read,
    )


def done(row: Trial) -> str:
    """How far a trial is, such as `3/5 epochs`."""
    return _done(row.step, Work.from_json(row.work))


def _done(step: int, work: Work) -> str:
    """
    >>> _done(3, Work(5, 0)), _done(40, Work(5, 0, steps=300)), _done(40, Work(5, 0, kind="range_test"))
    ('3/5 epochs', '40/300 steps', '40 steps')
    """
    if work.unit == "epoch":
        return f"{step}/{work.epochs} epochs"
    return f"{step}/{work.steps} steps" if work.steps else f"{step} {'step' if step == 1 else 'steps'}"


def _progress(row: Trial, work: Work) -> float | None:
    """Of a trial that counts steps towards epochs, as its newest report says."""
    if work.unit == "epoch" or work.steps:
        return round(min(100 * row.step / (work.steps or work.epochs), 100), 1)
    epochs = (row.last_metrics or {}).get("sys/epoch")
    known = isinstance(epochs, float | int) and work.kind == "train" and work.seconds is None
    return round(min(100 * epochs / work.epochs, 100), 1) if known and epochs is not None else None


def time_of(row: Trial, now_us: int) -> int | None:
    """Microseconds from its first start to its end, or till now."""
    if row.started_us is None:
        return None
    return int((row.ended_us or now_us) - row.started_us)


_REASONS = {
    "budget": "ran to its end",
    "early_stopping": "stopped early",
    "plateau": "stopped at its plateau",
    "pruned": "pruned by comparison",
    "diverged": "diverged",
}


def note(row: Trial) -> str:
    """What is worth knowing about a trial beyond its state. A lost worker is no failure."""
    parts = []
    if row.stop_reason in _REASONS and row.stop_reason != "budget":
        parts.append(f"{_REASONS[row.stop_reason]} at {Work.from_json(row.work).unit} {row.step}")
    if row.error:
        parts.append(str(row.error.get("kind", "error")))
    if row.state == TrialState.WAITING and row.attempt:
        parts.append(f"requeued for attempt {row.attempt + 1}")
    elif row.attempt > 1:
        parts.append(f"attempt {row.attempt}")
    if row.hand:
        parts.append("by hand")
    if row.imported is not None:
        parts.append(f"imported, #{row.imported['number']} there")
    if row.test_read is not None:
        parts.append("read the test set" if row.test_read == 1 else f"test set read no. {row.test_read}")
    if row.retry_of is not None:
        parts.append(f"again after #{row.retry_of}")
    return ", ".join(parts)


@dataclass(frozen=True, slots=True)
class Setting:
    """A hyperparameter of a trial: its value, where it lies in the space, and the best trial's."""

    name: str
    value: Scalar
    at: float | None  # percent of the parameter's own scale; None where it has none
    best: Scalar | None
    best_at: float | None
    where: str


def trial_settings(
    params: Mapping[str, Scalar], best: Mapping[str, Scalar], spec: StudySpec
) -> list[Setting]:
    """Varied hyperparameters first, in the study's order; then those that are fixed."""
    varied = [n for n in spec.space.names() if n in params]
    fixed = [n for n in params if n not in spec.space]
    out = []
    for name in varied:
        parameter = spec.space[name]
        where = f"{formats.number(params[name], pad=False)} in {parameter.shown()}"
        if isinstance(parameter, Choice):
            out.append(
                Setting(name, params[name], None, best.get(name), None, f"one of {len(parameter.values)}")
            )
            continue
        at, best_at = (_position(spec, name, p.get(name)) for p in (params, best))
        out.append(Setting(name, params[name], at, best.get(name), best_at, where))
    return out + [Setting(n, params[n], None, best.get(n), None, "fixed") for n in fixed]


def _position(spec: StudySpec, name: str, value: Any) -> float | None:
    parameter = spec.space[name]
    if value is None or not parameter.contains(value):
        return None
    return round(100 * parameter.position(value), 1)


_ENDINGS = {
    "finish": "finished",
    "retry": "failed, to be tried again",
    "preempted": "handed back: preempted",
    "shutdown": "handed back: the worker shut down",
    "expired": "lost: its lease expired",
    "reboot": "lost: its worker started anew",
    "verdict": "pruned by comparison",
    "by_hand": "pruned by hand",
}


def ending(cause: str | None, outcome: Mapping[str, Any] | None) -> str:
    """How an attempt ended: why, and what then became of the trial."""
    if cause is None:
        return "running"
    said = _ENDINGS.get(cause, cause.replace("_", " "))
    state, reason = (outcome or {}).get("state"), (outcome or {}).get("stop_reason")
    if state == TrialState.WAITING:
        return f"{said}; the trial waits again"
    if cause == "finish" and state:
        return f"{state}: {_REASONS.get(reason or '', reason)}" if reason else str(state)
    return said
