"""What went wrong in a study, by reason: failed, diverged, and lost trials, each group beside all trials.

    {"groups": [{"kind": "failed", "title": "RuntimeError", "message": "mat1 and mat2 … (#x#)", "count": 3,
                 "trials": [33, 40], "parameters": [{"name": "lr",
                 "said": "0.3 to 0.5; all trials 0.001 to 0.5",
                 "all": [4, 8], "mine": [0, 3], "labels": ["0.001", "0.5"], "distance": 0.6}]}],
     "shown": 3, "total": 24, "looked_at": 3}

`parameters` are hyperparameters whose values set the group apart, the most telling first: `distance` is the
largest difference between the group's and all trials' cumulative shares (Kolmogorov and Smirnov). Lost trials
are no failures: their worker stopped answering, and they were handed out again.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import Connection, and_, case, exists, or_, select
from tunesmith_studies.trial import Work

from tunesmith_service.charts.asked import Asked
from tunesmith_service.charts.axes import axis
from tunesmith_service.columns import Columns, Floats
from tunesmith_service.tables import attempts, trials
from tunesmith_service.ui import formats

MOST_TRIALS = 5000
LOST = ("expired", "reboot")
"""How an attempt ends whose worker is gone."""
MOST_GROUPS = 40
EXAMPLES = 12
PARAMETERS = 3
BINS = 16
MOST_CHARACTERS = 300
_NUMBER = re.compile(r"0x[0-9a-fA-F]+|(?:(?<![A-Za-z_\d.])|(?<=\dx))\d+(?:\.\d+)?(?:[eE][-+]?\d+)?")
_SPACE = re.compile(r"\s+")


@dataclass(slots=True)
class Group:
    kind: str  # failed, diverged or lost
    title: str
    message: str
    trials: list[int] = field(default_factory=list)  # the newest first


def view(asked: Asked) -> dict[str, Any]:
    rows = _rows(asked.conn, asked.study.id)
    looked_at = [r for r in rows[:MOST_TRIALS] if r.number < len(asked.columns) and asked.keep[r.number]]
    groups = grouped(looked_at)
    return {
        "groups": [_described(g, asked) for g in groups[:MOST_GROUPS]],
        "shown": len(groups[:MOST_GROUPS]),
        "kinds": len(groups),
        "looked_at": len(looked_at),
        "more": len(rows) > MOST_TRIALS,
        "total": len(asked.columns),
    }


def _rows(conn: Connection, study_id: int) -> Sequence[Any]:
    """The newest trials that failed, diverged or lost a worker."""
    t = trials
    a = attempts
    was_lost = exists().where(a.c.trial_id == t.c.id, a.c.ending.in_(LOST))
    again = or_(t.c.attempt > 1, and_(t.c.attempt == 1, t.c.state == "waiting"))  # few, told by the row alone
    is_lost = and_(again, was_lost)
    wrong = or_(t.c.state == "failed", t.c.stop_reason == "diverged", is_lost)
    lost = case((is_lost, 1), else_=0).label("lost")
    wanted = select(t.c.number, t.c.state, t.c.stop_reason, t.c.error, lost, t.c.step, t.c.work)
    wanted = wanted.where(t.c.study_id == study_id, wrong)
    return conn.execute(wanted.order_by(t.c.number.desc()).limit(MOST_TRIALS + 1)).all()


def grouped(rows: Sequence[Any]) -> list[Group]:
    """By reason; failed before diverged before lost, the most frequent first. A trial that was lost and
    then failed stands in both."""
    found: dict[tuple[str, str, str], Group] = {}
    for row in rows:
        for key in _reasons(row):
            found.setdefault(key, Group(*key)).trials.append(row.number)
    order = ("failed", "diverged", "lost")
    return sorted(found.values(), key=lambda g: (order.index(g.kind), -len(g.trials), g.title, g.message))


def _reasons(row: Any) -> list[tuple[str, str, str]]:
    found = []
    if row.state == "failed":
        found.append(("failed", *reason(row.error)))
    if row.stop_reason == "diverged":
        found.append(("diverged", "Diverged", _where(row.step, Work.from_json(row.work))))
    if row.lost:
        found.append(("lost", "Worker lost", "its worker stopped answering; the trial was handed out again"))
    return found


def reason(error: Mapping[str, Any] | None) -> tuple[str, str]:
    """The exception's class, and its first line with numbers as #, so that alike ones are one.

    >>> reason({"kind": "RuntimeError", "message": "shapes (64x512 and 256x10)\\nmore"})
    ('RuntimeError', 'shapes (#x# and #x#)')
    """
    error = error or {}
    first = str(error.get("message") or "").strip().partition("\n")[0][:MOST_CHARACTERS]
    return str(error.get("kind") or "Error")[:128], _SPACE.sub(" ", _NUMBER.sub("#", first))


def _where(step: int, work: Work) -> str:
    """How far into its training a trial diverged."""
    if step <= 1:
        return f"at its first {work.unit}"
    length = work.steps if work.unit == "step" else work.epochs
    return "in the first half of its training" if length and step * 2 <= length else (
        "in the second half of its training" if length else "later than its first step"
    )  # fmt: skip


def _described(group: Group, asked: Asked) -> dict[str, Any]:
    columns = asked.columns
    mine = np.zeros(len(columns), np.bool_)
    mine[group.trials] = True
    names = [n for n in asked.study.spec.get("space", {}) if n in columns.numbers or n in columns.words]
    told = [_parameter(asked, name, mine & columns.trains) for name in names[:64]]
    telling = sorted((p for p in told if p), key=lambda p: -p["distance"])
    return {
        "kind": group.kind, "title": group.title, "message": group.message, "count": len(group.trials),
        "trials": group.trials[:EXAMPLES], "parameters": telling[:PARAMETERS],
    }  # fmt: skip


def _parameter(asked: Asked, name: str, mine: NDArray[np.bool_]) -> dict[str, Any] | None:
    """One hyperparameter's values in the group and in all trials; None where all trials have one value."""
    if name in asked.columns.words:
        return _of_words(asked.columns, name, mine)
    values = asked.columns.numbers[name]
    mine, known = mine & ~np.isnan(values), asked.columns.trains & ~np.isnan(values)
    if not mine.any() or len(np.unique(values[known])) < 2:
        return None
    scale = axis(asked.study.spec.get("space", {}), asked.columns, name)
    places = scale.places(values)
    known, mine = known & ~np.isnan(places), mine & ~np.isnan(places)
    if not mine.any():
        return None
    low, high = float(places[known].min()), float(places[known].max())
    bins = np.linspace(low, high if high > low else low + 1, BINS + 1)
    whole, part = (np.histogram(places[which], bins)[0] for which in (known, mine))
    ends = [_shown(float(end(values[which]))) for which in (mine, known) for end in (np.min, np.max)]
    of_mine = ends[0] if ends[0] == ends[1] else f"{ends[0]} to {ends[1]}"
    return {
        "name": name, "said": f"{of_mine}; all trials {ends[2]} to {ends[3]}", "labels": ends[2:],
        "all": whole.tolist(), "mine": part.tolist(), "distance": _distance(places[mine], places[known]),
    }  # fmt: skip


def _of_words(columns: Columns, name: str, mine: NDArray[np.bool_]) -> dict[str, Any] | None:
    found = columns.words[name]
    known = columns.trains & (found.codes >= 0)
    mine = mine & known
    if not mine.any() or len(np.unique(found.codes[known])) < 2:
        return None
    size = len(found.labels)
    whole, part = (np.bincount(found.codes[which], minlength=size) for which in (known, mine))
    shares = [f"{found.labels[i]} {part[i]} of {whole[i]}" for i in np.argsort(-part)[:4] if part[i]]
    apart = float(np.abs(part / part.sum() - whole / whole.sum()).sum() / 2)
    return {
        "name": name, "said": ", ".join(shares), "labels": [str(label) for label in found.labels][:BINS],
        "all": whole[:BINS].tolist(), "mine": part[:BINS].tolist(), "distance": round(apart, 4),
    }  # fmt: skip


def _distance(one: Floats, other: Floats) -> float:
    """The largest difference between two cumulative shares, 0 to 1."""
    at = np.unique(other)
    shares = [np.searchsorted(np.sort(column), at, side="right") / len(column) for column in (one, other)]
    return round(float(np.abs(shares[0] - shares[1]).max()), 4)


def _shown(value: float) -> str:
    return formats.number(int(value) if value.is_integer() else value, pad=False)
