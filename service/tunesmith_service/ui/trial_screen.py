"""What a trial's page shows beside its row: what its curve says in short, what it changed, how it ended."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, select
from tunesmith_studies.trial import Point, TrialState

from tunesmith_service import overviews, store, trial_store
from tunesmith_service.charts import failures, inspected
from tunesmith_service.column_cache import ColumnCache
from tunesmith_service.errors import NotFound
from tunesmith_service.tables import attempts, trials, workers
from tunesmith_service.ui import formats, reproducing

MOST_TOLD = 12
MOST_VARIANTS = 20
LAST_LINES = 30


@dataclass(frozen=True, slots=True)
class InShort:
    """Of a curve: its best step, and how much worse the validation loss is than the training loss there and
    at the end."""

    best_step: int
    best: float
    last_step: int
    gap_at_best: float | None
    gap: float | None


@dataclass(frozen=True, slots=True)
class Beside:
    """Attributes:
    changed: what it has set otherwise than the trial that it goes on from, or that it varies.
    variants: numbers of the newest trials that vary it, at most MOST_VARIANTS.
    reason: of a failed trial: the group that the failures' page puts it in; and how many are there.
    before: the newest figures before it ended, of one that did not end well.
    retried_as: numbers of the trials that try it again.
    documents: which of `inspected.DOCUMENTS` it left.
    """

    kind: str
    stop_reason: str | None
    attempt: int
    hand: bool
    retry_of: int | None
    variant_of: int | None
    variants: list[int]
    changed: str
    in_short: InShort | None
    reason: tuple[str, str] | None
    alike: int
    before: list[tuple[str, Any]]
    retried_as: list[int]
    is_in_tree: bool
    documents: list[str]
    recipe: reproducing.Recipe


def beside(conn: Connection, cache: ColumnCache, study: store.Study, number: int) -> Beside:
    """Raises: NotFound."""
    row = trial_store.find_trial(conn, study.id, number)
    if row is None:
        raise NotFound(f"study {study.name} has no trial #{number}")
    failed = row.state == TrialState.FAILED
    kept = [a.name for a in trial_store.artifacts(conn, row.id)]
    cut = failed or row.stop_reason == "diverged"
    return Beside(
        kind=row.kind,
        stop_reason=row.stop_reason,
        attempt=row.attempt,
        hand=row.hand,
        retry_of=row.retry_of,
        variant_of=row.variant_of,
        variants=overviews.variants_of(conn, row, limit=MOST_VARIANTS),
        changed=_changed(conn, study.id, row),
        in_short=in_short(trial_store.curve(conn, row.id), study.spec["objective"])
        if row.kind == "train"
        else None,
        reason=failures.reason(row.error) if failed else None,
        alike=_alike(conn, study.id, row) if failed else 0,
        before=_told(row.last_metrics or {}) if cut else [],
        retried_as=[t.number for t in overviews.later_tries(conn, row)]
        if row.state in ("failed", "pruned", "cancelled")
        else [],
        is_in_tree=row.start is not None or _has_children(conn, cache, row),
        documents=[name for name in inspected.DOCUMENTS if f"{name}.json" in kept],
        recipe=reproducing.recipe(study, row, _worker(conn, row.id)),
    )


def _has_children(conn: Connection, cache: ColumnCache, row: trial_store.Trial) -> bool:
    """Only one that left a snapshot may have any: for all others no columns are read."""
    if not trial_store.snapshots(conn, row.id):
        return False
    return bool((cache.get(conn, row.study_id).start == row.number).any())


def in_short(curve: Sequence[Point], objective: Mapping[str, Any]) -> InShort | None:
    """None while nothing finite was reported of the objective's metric."""
    metric, sign = objective["metric"], 1 if objective["direction"] == "minimize" else -1
    known = [p for p in curve if math.isfinite(p.metrics.get(metric, math.nan))]
    if not known:
        return None
    best = min(known, key=lambda p: (sign * p.metrics[metric], p.step))
    return InShort(best.step, best.metrics[metric], known[-1].step, _gap(best), _gap(known[-1]))


def _gap(point: Point) -> float | None:
    both = [point.metrics.get(f"{split}/loss", math.nan) for split in ("val", "train")]
    return both[0] - both[1] if all(map(math.isfinite, both)) else None


def _changed(conn: Connection, study_id: int, row: trial_store.Trial) -> str:
    number = row.start["trial"] if row.start else row.variant_of
    parent = None if number is None else trial_store.find_trial(conn, study_id, number)
    before = parent.params if parent else {}
    named = [n for n in row.params if n not in before or before[n] != row.params[n]]

    def shown(value: Any) -> str:
        return formats.number(value, pad=False)

    said = [f"{n} {shown(before.get(n))} → {shown(row.params[n])}" for n in named]
    gone = [f"no {n}" for n in before if n not in row.params]
    return ", ".join([*said, *gone]) if parent else ""


def _told(metrics: Mapping[str, Any]) -> list[tuple[str, Any]]:
    own = [(n, v) for n, v in metrics.items() if not n.startswith("sys/")]
    return [(n, float(v) if isinstance(v, str) else v) for n, v in own[:MOST_TOLD]]


def _alike(conn: Connection, study_id: int, row: trial_store.Trial) -> int:
    """How many failed trials of the study are of this one's group, itself left out; of the newest."""
    t = trials
    wanted = select(t.c.error).where(t.c.study_id == study_id, t.c.state == "failed", t.c.id != row.id)
    newest = wanted.order_by(t.c.number.desc()).limit(failures.MOST_TRIALS)
    mine = failures.reason(row.error)
    return sum(failures.reason(error) == mine for error in conn.execute(newest).scalars())


def _worker(conn: Connection, trial_id: int) -> str | None:
    a, w = attempts, workers
    wanted = (
        select(w.c.name, w.c.version)
        .join(a, a.c.worker_id == w.c.id)
        .where(a.c.trial_id == trial_id)
        .order_by(a.c.attempt.desc())
        .limit(1)
    )
    row = conn.execute(wanted).first()
    return f"tunesmith {row.version} on {row.name}" if row else None


def last_lines(log: str) -> str:
    """The end of a log that says how a trial died."""
    return "\n".join(log.rstrip("\n").split("\n")[-LAST_LINES:])
