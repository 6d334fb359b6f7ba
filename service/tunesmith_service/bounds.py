"""What a study, a trial and a project may hold in rows, so that pages and planning stay within memory.

Counting what is there reads many rows, so what was counted is remembered: a cache, made anew by the next
server. That of a study's metrics looks at the newest trials alone, so of names that only older ones reported
there may be some more than the bound, a few for each server.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from sqlalchemy import Row, func, select

from tunesmith_service.errors import Conflict, Refused, Unprocessable
from tunesmith_service.tables import reports, studies, trials

if TYPE_CHECKING:
    from tunesmith_service.commands import Report
    from tunesmith_service.tx import Tx

LOOK_AT_TRIALS = 1000
"""So many of a study's newest trials tell which metrics it has."""

MOST_REMEMBERED = 10_000
"""Studies, and trials, whose counts are kept."""


class Bounds:
    """Args:
    metrics: names that a study's trials may report.
    points: of a trial's curve, over all attempts.
    queued: waiting trials of a project, beyond which people queue no more.
    """

    def __init__(self, *, metrics: int = 256, points: int = 100_000, queued: int = 100_000) -> None:
        self._metrics, self._points, self._queued = metrics, points, queued
        self._names: OrderedDict[int, set[str]] = OrderedDict()  # by study
        # by trial: attempt and report up to which was counted, and how many points it has
        self._counted: OrderedDict[int, tuple[int, int, int]] = OrderedDict()

    def refuse_report(self, tx: Tx, trial: Row[Any], seq: int, report: Report) -> Refused | None:
        """What a report is told that would be too much; it comes after report `seq` of the same attempt."""
        names = {name for _, metrics in report.points for name in metrics}
        known = self._of_study(tx, trial.study_id)
        if refused := self._refuse_names(known, names):
            return refused
        points = self._of_trial(tx, trial, seq)
        if points + len(report.points) > self._points:
            return Unprocessable(
                f"Trial {trial.number} has {points} points; with {len(report.points)} more it would have "
                f"more than {self._points}. Report less often, or set --trial-points."
            )
        known |= names
        _remember(self._counted, trial.id, (trial.attempt, report.seq, points + len(report.points)))
        return None

    def refuse_curves(
        self, tx: Tx, study_id: int, curves: Sequence[Sequence[Mapping[str, Any]]]
    ) -> Refused | None:
        """What whole curves, each the metrics of its points, are told that would be too much."""
        names = {name for curve in curves for metrics in curve for name in metrics}
        known = self._of_study(tx, study_id)
        if refused := self._refuse_names(known, names):
            return refused
        longest = max(map(len, curves), default=0)
        if longest > self._points:
            return Unprocessable(
                f"A trial has {longest} points; at most {self._points} are kept. Thin it out, or set "
                "--trial-points."
            )
        known |= names
        return None

    def _refuse_names(self, known: set[str], names: set[str]) -> Refused | None:
        if names <= known or len(known | names) <= self._metrics:
            return None
        return Unprocessable(
            f"Metric {min(names - known)} is new to the study, whose trials have reported {len(known)} "
            f"names; at most {self._metrics} are kept. Report fewer, or set --study-metrics."
        )

    def refuse_queueing(self, tx: Tx, project_id: int, n: int) -> Refused | None:
        """What people are told who want to queue `n` trials more than their project may have waiting."""
        counted = select(func.coalesce(func.sum(studies.c.waiting), 0))
        waiting = tx.execute(counted.where(studies.c.project_id == project_id)).scalar_one()
        if waiting + n <= self._queued:
            return None
        return Conflict(
            f"{waiting} trials of the project wait already; at most {self._queued} may. Let some run first, "
            "or set --project-queued."
        )

    def forget_study(self, study_id: int) -> None:
        """One that was deleted: SQLite may give its id to another."""
        self._names.pop(study_id, None)

    def _of_study(self, tx: Tx, study_id: int) -> set[str]:
        if study_id not in self._names:
            newest = select(trials.c.last_metrics).where(trials.c.study_id == study_id)
            said = tx.execute(newest.order_by(trials.c.number.desc()).limit(LOOK_AT_TRIALS)).scalars()
            _remember(self._names, study_id, _names(said))
        return self._names[study_id]

    def _of_trial(self, tx: Tx, trial: Row[Any], seq: int) -> int:
        """How many points it has, those that later attempts have overtaken too."""
        attempt, counted, points = self._counted.get(trial.id, (0, 0, 0))
        if (attempt, counted) == (trial.attempt, seq):
            return points
        if (trial.attempt, seq) == (1, 0):
            return 0
        length = func.sum(func.json_array_length(reports.c.points))
        return tx.execute(select(length).where(reports.c.trial_id == trial.id)).scalar_one() or 0


def _names(metrics: Iterable[Any]) -> set[str]:
    return {name for said in metrics if said for name in said}


def _remember(kept: OrderedDict[int, Any], key: int, value: Any) -> None:
    kept[key] = value
    kept.move_to_end(key)
    if len(kept) > MOST_REMEMBERED:
        kept.popitem(last=False)
