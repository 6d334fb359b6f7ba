"""Columns written by hand, and a question to a view about them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
from tunesmith_service.charts.asked import Asked, ChartQuery
from tunesmith_service.columns import REASONS, STATES, Columns, Words

SECOND = 1_000_000.0


def columns(
    value: Sequence[float | None],
    *,
    stage: Sequence[int] | None = None,
    stages: Sequence[str] = ("coarse", "refine"),
    state: Sequence[str] | None = None,
    reason: Sequence[str] | None = None,
    seconds: Sequence[tuple[float, float] | None] | None = None,
    start: Sequence[int] | None = None,
    trains: Sequence[bool] | None = None,
    numbers: Mapping[str, Sequence[float | None]] | None = None,
    words: Mapping[str, Sequence[Any]] | None = None,
) -> Columns:
    """One trial a value; a trial without one diverged unless `state` and `reason` say otherwise."""
    n = len(value)
    state = state or ["complete" if v is not None else "pruned" for v in value]
    reason = reason or ["budget" if v is not None else "diverged" for v in value]
    times = seconds or [(float(i), float(i + 1)) for i in range(n)]
    return Columns(
        at=1,
        stages=tuple(stages),
        stage=np.array(stage or [0] * n, np.int16),
        state=np.array([STATES.index(s) for s in state], np.int16),
        reason=np.array([REASONS.index(r) for r in reason], np.int16),
        value=real(value),
        start=np.array(start or [-1] * n, np.int64),
        trains=np.array(trains or [True] * n, np.bool_),
        started_us=real([None if t is None else t[0] * SECOND for t in times]),
        ended_us=real([None if t is None else t[1] * SECOND for t in times]),
        numbers={name: real(column) for name, column in (numbers or {}).items()},
        words={name: coded(column) for name, column in (words or {}).items()},
    )


def real(values: Sequence[float | None]) -> Any:
    return np.array([np.nan if v is None else v for v in values], np.float64)


def coded(values: Sequence[Any]) -> Words:
    labels = tuple(dict.fromkeys(v for v in values if v is not None))
    return Words(np.array([-1 if v is None else labels.index(v) for v in values], np.int32), labels)


def asked(
    found: Columns,
    *,
    direction: str = "minimize",
    space: Any = None,
    without: Sequence[int] = (),
    **query: Any,
) -> Asked:
    """About a study that only says what views read of it; the filter leaves out `without`."""
    spec = {"objective": {"metric": "val/loss", "direction": direction}, "space": space or {}}
    study = SimpleNamespace(id=1, spec=spec, direction=direction)
    keep = np.array([n not in without for n in range(len(found))], np.bool_)
    return Asked(cast(Any, None), cast(Any, study), found, keep, ChartQuery(**query))
