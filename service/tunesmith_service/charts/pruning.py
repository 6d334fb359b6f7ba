"""What a stage's pruner did: the budget it saved, and whether early ranks agree with those of the end.

    {"metric", "direction", "stages": ["coarse", "refine"], "stage": "refine", "pruner": "median",
     "pruned": 12, "complete": 30, "saved": 140, "planned": 840,
     "rank": {"at": [1, 2], "rho": [0.3, 0.8], "n": [30, 30]}, "judged_at": 2,
     "curves": [{"number": 4, "state": "pruned", "at": [1, 2], "value": [2.1, 1.9]}],
     "thresholds": [{"name", "at", "value"}], "said": "…", "range": [0.4, 2.1],
     "finding": {level, sentence, …}}

Ranks are asked of stages without a pruner too, for they tell whether one would be safe. `saved` counts what
pruned trials had left of their budget. `rho` is Spearman's rank correlation of a step's values with the final
ones, over trials that ran to their end.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import Connection, Row, case, func, select
from tunesmith_studies.findings import Finding

from tunesmith_service import reading, store
from tunesmith_service.charts import peers
from tunesmith_service.charts.asked import Asked, described
from tunesmith_service.tables import stages, trials
from tunesmith_service.ui.curves import robust_range

MOST_TRIALS = 200
MOST_DRAWN = {"complete": 30, "pruned": 60}
MOST_STEPS = 60
ENOUGH = 10
"""Whole trials below which a rank correlation says nothing."""
SAFE, DOUBTFUL = 0.7, 0.4
RULE = (
    "Spearman's rank correlation of values at the step with final values, over trials that ran to their end: "
    f"{SAFE:g} or more is taken as agreement, under {DOUBTFUL:g} as none; fewer than {ENOUGH} trials decide "
    "nothing. Trials that were pruned have no end, so the figure speaks of survivors."
)


@dataclass(frozen=True, slots=True)
class Ranks:
    """Agreement by step: of `n` whole trials that reported it."""

    at: list[int]
    rho: list[float]
    n: list[int]

    def to_json(self) -> dict[str, Any]:
        return {"at": self.at, "rho": [round(r, 4) for r in self.rho], "n": self.n}


def view(asked: Asked) -> dict[str, Any]:
    conn, study = asked.conn, asked.study
    tallied = _tallied(conn, study)
    names = [r.stage for r in tallied if r.pruned or _has_pruner(r.spec) or r.complete >= ENOUGH]
    wanted = asked.query.stage if asked.query.stage in names else ""
    by_pruned = sorted((r for r in tallied if r.stage in names), key=_most_told)
    chosen = next((r for r in by_pruned if r.stage == wanted), by_pruned[0] if by_pruned else None)
    if chosen is None:
        return described(asked) | {
            "stages": [],
            "stage": "",
            "pruned": 0,
            "curves": [],
            "finding": None,
            "shown": 0,
        }
    of_stage = _Stage(conn, study, chosen)
    return described(asked) | {"stages": names} | of_stage.to_json(asked.metric)


def _most_told(row: Row[Any]) -> tuple[int, bool, int]:
    """Most pruned first, then what has a pruner, then what ran most to its end."""
    return -(row.pruned or 0), not _has_pruner(row.spec), -(row.complete or 0)


def _has_pruner(spec: Mapping[str, Any]) -> bool:
    return bool((spec.get("pruner") or {}).get("kind", "nop") != "nop")


def _tallied(conn: Connection, study: store.Study) -> Sequence[Row[Any]]:
    """By stage: how many trials were pruned by comparison and ran through, and the epochs they were given."""
    t, g = trials, stages
    epochs = t.c.work["epochs"].as_integer()
    is_pruned, is_whole = t.c.stop_reason == "pruned", t.c.state == "complete"
    left = case((is_pruned & (epochs > t.c.step), epochs - t.c.step), else_=0)
    wanted = (
        select(
            g.c.id, g.c.name.label("stage"), g.c.spec, func.count().filter(is_pruned).label("pruned"),
            func.count().filter(is_whole).label("complete"), func.sum(left).label("saved"),
            func.sum(case((is_pruned | is_whole, epochs), else_=0)).label("planned"),
            func.min(case((is_pruned, t.c.step))).label("first"),
            func.avg(case((is_pruned, t.c.step))).label("mean"),
        )
        .join(t, t.c.stage_id == g.c.id)
        .where(g.c.study_id == study.id, t.c.kind == "train")
        .group_by(g.c.id)
    )  # fmt: skip
    return conn.execute(wanted.order_by(g.c.position)).all()


class _Stage:
    """One stage's newest trials and their curves."""

    def __init__(self, conn: Connection, study: store.Study, row: Any) -> None:
        self.row, self.study = row, study
        self.sign = 1 if study.direction == "minimize" else -1
        t = trials
        wanted = select(t.c.id, t.c.number, t.c.state, t.c.value, t.c.stop_reason).where(
            t.c.stage_id == row.id, t.c.kind == "train"
        )
        length = int((row.spec or {}).get("epochs") or 1)
        most = min(MOST_TRIALS, max(peers.MOST_POINTS // length, 20))

        def newest(*where: Any) -> list[Any]:
            return list(conn.execute(wanted.where(*where).order_by(t.c.number.desc()).limit(most)))

        self.whole = newest(t.c.state == "complete")
        self.pruned = newest(t.c.stop_reason == "pruned")
        self.points = reading.curves(conn, [r.id for r in (*self.whole, *self.pruned)])
        self.pruner = peers.pruner_of(conn, study.id, row.stage)

    def to_json(self, metric: str) -> dict[str, Any]:
        values = {i: peers.finite(points, metric) for i, points in self.points.items()}
        ranks = ranks_by_step([(values.get(r.id, {}), r.value) for r in self.whole])
        judged_at = self._judged_at(ranks)
        yardstick = peers.Peers(
            [
                peers.Curve(r.number, r.state == "complete", values.get(r.id, {}))
                for r in (*self.whole, *self.pruned)
            ],
            {}, self.pruner, self.sign == 1, len(self.whole) >= self.row.complete,
        )  # fmt: skip
        thresholds, said = yardstick.thresholds()
        best = sorted(self.whole, key=lambda r: (self.sign * r.value, r.number))[: MOST_DRAWN["complete"]]
        curves = [self._curve(r, values) for r in (*self.pruned[: MOST_DRAWN["pruned"]], *best)]
        shown = [v for c in curves for v in c["value"]]
        return {
            "stage": self.row.stage,
            "pruner": self.pruner.kind if self.pruner else "",
            "pruned": self.row.pruned,
            "complete": self.row.complete,
            "saved": int(self.row.saved or 0),
            "planned": int(self.row.planned or 0),
            "rank": ranks.to_json(),
            "judged_at": judged_at,
            "curves": [c for c in curves if c["at"]],
            "thresholds": thresholds,
            "said": said,
            "range": robust_range(shown),
            "finding": verdict(ranks, judged_at, self.row, self._best_rank(values, judged_at)).to_json(),
            "shown": len(curves),
        }  # fmt: skip

    def _judged_at(self, ranks: Ranks) -> int | None:
        """The step that a verdict about safety is about: the first at which a trial was pruned."""
        first = self.row.first if self.row.first is not None else None
        later = [s for s in ranks.at if first is None or s >= first]
        return later[0] if later else (ranks.at[-1] if ranks.at else None)

    def _best_rank(
        self, values: Mapping[int, Mapping[int, float]], step: int | None
    ) -> tuple[int, int, int] | None:
        """(trial, its place at the step, of how many): of the trial that was best in the end."""
        if step is None:
            return None
        known = [(self.sign * values[r.id][step], r) for r in self.whole if step in values.get(r.id, {})]
        if not known:
            return None
        best = min((r for _, r in known), key=lambda r: (self.sign * r.value, r.number))
        ahead = sum(v < self.sign * values[best.id][step] for v, _ in known)
        return best.number, ahead + 1, len(known)

    @staticmethod
    def _curve(row: Any, values: Mapping[int, Mapping[int, float]]) -> dict[str, Any]:
        mine = values.get(row.id, {})
        step = max(len(mine) // 80, 1)
        steps = sorted(mine)
        kept = sorted({*steps[::step], *steps[-1:]})
        return {
            "number": row.number, "state": "pruned" if row.stop_reason == "pruned" else row.state,
            "at": kept, "value": [float(f"{mine[s]:.6g}") for s in kept],
        }  # fmt: skip


def spearman(one: NDArray[np.float64], other: NDArray[np.float64]) -> float:
    """Rank correlation of two columns of shape (n,), ties sharing their mean rank; NaN where one is constant.

    >>> round(spearman(np.array([1.0, 2.0, 3.0]), np.array([10.0, 30.0, 20.0])), 2)
    0.5
    """
    ranks = [_ranks(column) for column in (one, other)]
    a, b = (r - r.mean() for r in ranks)
    size = float(np.sqrt((a**2).sum() * (b**2).sum()))
    return float((a * b).sum() / size) if size else float("nan")


def _ranks(column: NDArray[np.float64]) -> NDArray[np.float64]:
    _, place, counts = np.unique(column, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    found: NDArray[np.float64] = (last - (counts - 1) / 2)[place]
    return found


def ranks_by_step(whole: Sequence[tuple[Mapping[int, float], float | None]]) -> Ranks:
    """Agreement of each step's values with the final ones.

    Args:
        whole: of each trial that ran to its end, its values by step and its objective.
    """
    known = [(curve, value) for curve, value in whole if value is not None and curve]
    steps = sorted({s for curve, _ in known for s in curve})
    steps = steps[:: max(len(steps) // MOST_STEPS, 1)]
    found = Ranks([], [], [])
    for step in steps:
        both = [(curve[step], value) for curve, value in known if step in curve]
        early, late = (np.array(column) for column in zip(*both, strict=True))
        rho = spearman(early, late) if len(both) > 2 else float("nan")
        if np.isfinite(rho):
            found.at.append(step)
            found.rho.append(rho)
            found.n.append(len(both))
    return found


def verdict(ranks: Ranks, step: int | None, row: Any, best: tuple[int, int, int] | None) -> Finding:
    """Whether pruning at `step` is likely to throw away what would have won."""
    if step not in ranks.at:
        return Finding(
            "pruning_safety", "info", "Too few trials ran to their end to say whether pruning is safe.", RULE,
            "Let some trials run through: the median pruner's n_startup_trials does that.",
        )  # fmt: skip
    i = ranks.at.index(step)
    rho, n = ranks.rho[i], ranks.n[i]
    numbers = {
        "step": step,
        "rho": round(rho, 4),
        "n": n,
        "pruned": row.pruned,
        "saved_epochs": int(row.saved or 0),
    }
    place = f" The best of them, #{best[0]}, was number {best[1]} of {best[2]} there." if best else ""
    seen = f"Ranks at epoch {step} against the end: ρ = {rho:.2f} over {n} trials that ran through.{place}"
    if n < ENOUGH:
        return Finding("pruning_safety", "info", f"{seen} Too few to trust.", RULE, "", numbers)
    if rho >= SAFE:
        return Finding(
            "pruning_safety", "pass", f"Pruning from epoch {step} on looks safe. {seen}", RULE, "", numbers
        )
    safe = next(
        (s for s, r, m in zip(ranks.at, ranks.rho, ranks.n, strict=True) if r >= SAFE and m >= ENOUGH), None
    )
    later = f"Prune from epoch {safe} on, where ρ reaches {SAFE:g}" if safe else "Prune later, or not at all"
    level, word = ("warn", "doubtful") if rho >= DOUBTFUL else ("fail", "not safe")
    return Finding(
        "pruning_safety", "warn" if level == "warn" or not row.pruned else "fail",
        f"Pruning at epoch {step} is {word}. {seen}", RULE,
        f"{later}: n_warmup_steps of the median pruner, min_resource of successive halving.", numbers,
    )  # fmt: skip
