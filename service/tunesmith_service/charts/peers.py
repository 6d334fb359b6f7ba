"""The other trials of a stage as a yardstick for one: their median, and what its pruner asked of it.

Thresholds are those of the pruner's own rule, worked out from the trials that it compares with, at most
`MOST_PEERS` of them. They say what was asked at each step, not what a verdict weighed beside it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from pydantic import TypeAdapter, ValidationError
from sqlalchemy import Connection, select
from tunesmith_studies import pruners

from tunesmith_service import reading, store, trial_store
from tunesmith_service.tables import stages, trials

MOST_PEERS = 200
MOST_POINTS = 20_000
"""Of all peers together; longer curves have fewer peers."""
FEWEST = 3
"""Peers that a median needs at a step."""
_PRUNER: TypeAdapter[Any] = TypeAdapter(pruners.Pruner | None)


@dataclass(frozen=True, slots=True)
class Curve:
    """A peer's metric: whether it ran to its end, and its values by step."""

    number: int
    complete: bool
    values: Mapping[int, float]


@dataclass(frozen=True, slots=True)
class Peers:
    """Trials of one stage beside one of them, `number` with its own values."""

    curves: Sequence[Curve]
    mine: Mapping[int, float]
    pruner: pruners.Pruner | None
    minimize: bool
    is_all: bool

    def steps(self) -> list[int]:
        return sorted({s for c in self.curves for s in c.values} | set(self.mine))

    def median(self) -> dict[str, Any]:
        """Of all peers that reported a step, where they are at least three."""
        return _columns((s, float(np.median(v))) for s in self.steps() if len(v := self._at(s)) >= FEWEST) | {
            "trials": len(self.curves)
        }

    def thresholds(self) -> tuple[list[dict[str, Any]], str]:
        """Lines that a trial had to stay on the good side of, and a sentence about them."""
        pruner = self.pruner
        if isinstance(pruner, pruners.PatientPruner):
            pruner = pruner.wrapped_pruner
        if isinstance(pruner, pruners.MedianPruner):
            return self._percentile(50.0, "median", pruner)
        if isinstance(pruner, pruners.PercentilePruner):
            return self._percentile(pruner.percentile, f"best {pruner.percentile:g} %", pruner)
        if isinstance(pruner, pruners.SuccessiveHalvingPruner):
            return self._rungs(pruner)
        if isinstance(pruner, pruners.ThresholdPruner):
            bounds = [("upper bound", pruner.upper), ("lower bound", pruner.lower)]
            steps = self.steps()
            ends = [steps[0], steps[-1]] if steps else []
            lines = [{"name": n, "at": ends, "value": [b] * len(ends)} for n, b in bounds if b is not None]
            return lines, "The bounds are fixed in the study."
        if pruner is None or isinstance(pruner, pruners.NopPruner):
            return [], ""
        return [], f"The {pruner.kind} pruner compares by a rule that no single line shows."

    def _at(self, step: int, *, complete: bool = False) -> list[float]:
        return [c.values[step] for c in self.curves if step in c.values and (c.complete or not complete)]

    def _percentile(
        self, percentile: float, word: str, pruner: pruners.MedianPruner | pruners.PercentilePruner
    ) -> tuple[list[dict[str, Any]], str]:
        whole = sum(c.complete for c in self.curves)
        if whole < max(pruner.n_startup_trials, 1):
            return [], (
                f"No threshold yet: the {pruner.kind} pruner begins after {pruner.n_startup_trials} complete "
                f"trials, and there were {whole}."
            )
        share = percentile if self.minimize else 100 - percentile
        asked = (
            (s, float(np.percentile(v, share)))
            for s in self.steps()
            if s >= pruner.n_warmup_steps and len(v := self._at(s, complete=True)) >= pruner.n_min_trials
        )
        better = "above" if self.minimize else "below"
        said = (
            f"Threshold: {word} of {whole} complete trials{'' if self.is_all else ' (the newest)'} of its "
            f"stage at each step. A trial whose best so far lies {better} it is pruned."
        )
        return [_columns(asked) | {"name": "prune threshold"}], said

    def _rungs(self, pruner: pruners.SuccessiveHalvingPruner) -> tuple[list[dict[str, Any]], str]:
        assert isinstance(pruner.min_resource, int), "auto is resolved when a study is created"
        steps, factor = self.steps(), pruner.reduction_factor
        asked, rung = [], pruner.min_resource * factor**pruner.min_early_stopping_rate
        while steps and rung <= steps[-1]:
            reached = [self._first_from(c.values, rung) for c in self.curves]
            mine = self._first_from(self.mine, rung)
            values = sorted((v for v in (*reached, mine) if v is not None), reverse=not self.minimize)
            if values:
                asked.append((rung, values[max(len(values) // factor - 1, 0)]))
            rung *= factor
        said = f"Threshold: the best 1 in {factor} of the trials that reached each rung go on."
        return [_columns(asked) | {"name": "prune threshold"}], said

    @staticmethod
    def _first_from(values: Mapping[int, float], rung: int) -> float | None:
        return next((v for s, v in values.items() if s >= rung), None)


def of(conn: Connection, study: store.Study, trial: trial_store.Trial, metric: str, length: int) -> Peers:
    """The peers of a trial: the newest of its stage; of a pruned one, those that ended before it."""
    most = min(MOST_PEERS, max(MOST_POINTS // max(length, 1), 20))
    t = trials
    wanted = (
        select(t.c.id, t.c.number, t.c.state)
        .join(stages, stages.c.id == t.c.stage_id)
        .where(
            t.c.study_id == study.id, stages.c.name == trial.stage, t.c.number != trial.number,
            t.c.kind == "train", t.c.state.in_(("complete", "pruned")),
        )
    )  # fmt: skip
    if trial.ended_us is not None and trial.stop_reason == "pruned":
        wanted = wanted.where(t.c.ended_us <= trial.ended_us)
    rows = conn.execute(wanted.order_by(t.c.number.desc()).limit(most + 1)).all()
    found = reading.curves(conn, [trial.id, *(r.id for r in rows[:most])])
    curves = [
        Curve(r.number, r.state == "complete", finite(found.get(r.id, []), metric)) for r in rows[:most]
    ]
    return Peers(
        curves=[c for c in curves if c.values],
        mine=finite(found.get(trial.id, []), metric),
        pruner=pruner_of(conn, study.id, trial.stage),
        minimize=study.direction == "minimize",
        is_all=len(rows) <= most,
    )


def pruner_of(conn: Connection, study_id: int, stage: str) -> pruners.Pruner | None:
    """A stage's pruner; None where it has none, or another version wrote it."""
    wanted = select(stages.c.spec).where(stages.c.study_id == study_id, stages.c.name == stage)
    written = (conn.scalar(wanted) or {}).get("pruner")
    try:
        found: pruners.Pruner | None = _PRUNER.validate_python(written)
    except ValidationError:
        return None
    return found


def finite(points: Iterable[Any], metric: str) -> dict[int, float]:
    return {p.step: p.metrics[metric] for p in points if math.isfinite(p.metrics.get(metric, math.nan))}


def _columns(points: Iterable[tuple[float, float]]) -> dict[str, Any]:
    kept = list(points)
    return {"at": [at for at, _ in kept], "value": [float(f"{value:.6g}") for _, value in kept]}
