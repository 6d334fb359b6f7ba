"""What a trial's own charts draw, by the same protocol as those of its study.

    losses    {"metric": "val/loss", "unit": "epoch",
               "lines": [{"name": "val/loss", "at": [1], "value": [0.9]}],
               "groups": ["loss", "accuracy"], "group": "loss", "median": {"at", "value", "trials"},
               "thresholds": [{"name", "at", "value"}], "said": "…", "end": {"at": 6, "word": "pruned"},
               "range": [0.4, 2.3]}
    gap       {"lines": [val − train], "unit", "group", "range", "best": 17}
    schedule  {"lines": [rate, decay], "unit"}
    machine   {"lines": [one for each sys/ metric], "unit"}

Each line has at most `MOST_POINTS` points; `lost` are steps whose value was not finite.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy import Connection
from tunesmith_studies.trial import Point, Work

from tunesmith_service import store, trial_store
from tunesmith_service.charts import peers
from tunesmith_service.errors import NotFound
from tunesmith_service.ui.curves import decimate, robust_range

MOST_LINES = 16
SCHEDULED = {"sys/lr": "learning rate", "sys/momentum": "momentum", "sys/weight_decay": "weight decay"}
NOT_MACHINE = (*SCHEDULED, "sys/epoch", "sys/restored_step")


class TrialChartQuery(BaseModel):
    """What of a trial a chart shall show. A view ignores what means nothing to it."""

    model_config = ConfigDict(extra="forbid")

    group: str = Field(
        default="", max_length=128, description="losses: a metric without its split, such as `accuracy`."
    )
    against: int | None = Field(
        default=None, ge=0, lt=2**53, description="confusion: the trial whose matrix is taken away."
    )


@dataclass(frozen=True, slots=True)
class OfTrial:
    """A question about one trial; `group` is a metric without its split, such as `loss`."""

    conn: Connection
    study: store.Study
    trial: trial_store.Trial
    points: Sequence[Point]
    group: str = ""

    @property
    def metric(self) -> str:
        return str(self.study.spec["objective"]["metric"])

    @property
    def unit(self) -> str:
        return Work.from_json(self.trial.work).unit

    def names(self) -> list[str]:
        return list(dict.fromkeys(name for p in self.points for name in p.metrics))

    def series(self, name: str) -> list[tuple[float, float]]:
        return [(p.step, p.metrics[name]) for p in self.points if name in p.metrics]


def chart(
    conn: Connection, study: store.Study, trial: trial_store.Trial, name: str, group: str = ""
) -> dict[str, Any]:
    """A view of a trial by its name; JSON. Raises NotFound."""
    if name not in TRIAL_CHARTS:
        raise NotFound(f"a trial has no view {name!r}; it has {', '.join(TRIAL_CHARTS)}")
    points = trial_store.curve(conn, trial.id)
    return TRIAL_CHARTS[name](OfTrial(conn, study, trial, points, group))


def losses(asked: OfTrial) -> dict[str, Any]:
    """A metric on training and validation split, beside its stage's median and what the pruner asks."""
    groups = _groups(asked)
    group = asked.group if asked.group in groups else _group(asked.metric)
    named = [n for n in asked.names() if _group(n) == group and not n.startswith("sys/")]
    lines = [_line(n, asked.series(n)) for n in sorted(named, reverse=True)]
    seen = peers.of(asked.conn, asked.study, asked.trial, f"val/{group}", len(asked.points))
    judged = f"val/{group}" == asked.metric
    thresholds, said = seen.thresholds() if judged else ([], "")
    shown = [v for line in lines for v in line["value"]]
    shown += [v for line in thresholds for v in line["value"]]
    return {
        "metric": f"val/{group}",
        "unit": asked.unit,
        "groups": groups,
        "group": group,
        "lines": lines,
        "median": seen.median(),
        "thresholds": thresholds,
        "said": said,
        "end": _end(asked),
        "range": robust_range(shown),
        "shown": len(lines),
    }


def gap(asked: OfTrial) -> dict[str, Any]:
    """Validation minus training, of the loss where both report one: how much worse it is on new samples."""
    names = set(asked.names())
    groups = [g for g in dict.fromkeys(("loss", *_groups(asked))) if {f"val/{g}", f"train/{g}"} <= names]
    if not groups:
        return {"lines": [], "unit": asked.unit, "group": "", "range": None, "shown": 0}
    group = groups[0]
    train = dict(asked.series(f"train/{group}"))
    both = [(at, v - train[at]) for at, v in asked.series(f"val/{group}") if at in train]
    line = _line(f"val/{group} − train/{group}", both)
    return {
        "lines": [line], "unit": asked.unit, "group": group,
        "range": robust_range([0.0, *line["value"]]), "shown": len(line["at"]),
    }  # fmt: skip


def schedule(asked: OfTrial) -> dict[str, Any]:
    """The learning rate as reported, and the weight decay, which is as set while nothing else is said."""
    lines = [_line(word, asked.series(n)) for n, word in SCHEDULED.items() if n in asked.names()]
    decay = asked.trial.params.get("weight_decay")
    known = {line["name"] for line in lines}
    if lines and isinstance(decay, int | float) and "weight decay" not in known:
        ends = [lines[0]["at"][0], lines[0]["at"][-1]] if lines[0]["at"] else []
        lines.append({"name": "weight decay", "at": ends, "value": [float(decay)] * len(ends), "lost": []})
    return {"lines": lines, "unit": asked.unit, "shown": len(lines)}


def machine(asked: OfTrial) -> dict[str, Any]:
    """What the worker said of its machine: times, speeds, use of the device."""
    names = [n for n in asked.names() if n.startswith("sys/") and n not in NOT_MACHINE]
    lines = [_line(n.removeprefix("sys/"), asked.series(n)) for n in sorted(names)[:MOST_LINES]]
    return {"lines": lines, "unit": asked.unit, "shown": len(lines)}


TRIAL_CHARTS: Mapping[str, Callable[[OfTrial], dict[str, Any]]] = {
    "losses": losses,
    "gap": gap,
    "schedule": schedule,
    "machine": machine,
}


def _group(metric: str) -> str:
    return metric.partition("/")[2] or metric


def _groups(asked: OfTrial) -> list[str]:
    """Metrics without their split, the objective's first."""
    found = {_group(n) for n in asked.names() if not n.startswith("sys/")} | {_group(asked.metric)}
    return sorted(found, key=lambda g: (g != _group(asked.metric), g != "loss", g))


def _line(name: str, points: Sequence[tuple[float, float]]) -> dict[str, Any]:
    kept = decimate([p for p in points if math.isfinite(p[1])])
    return {
        "name": name,
        "at": [at for at, _ in kept],
        "value": [float(f"{value:.6g}") for _, value in kept],
        "lost": [at for at, value in points if not math.isfinite(value)][:20],
    }


def _end(asked: OfTrial) -> dict[str, Any] | None:
    """Where a trial was cut short, and in which word."""
    words = {"pruned": "pruned", "diverged": "diverged", "error": "failed", "cancelled": "cancelled"}
    word = words.get(asked.trial.stop_reason or "")
    return {"at": asked.trial.step, "word": word} if word and asked.points else None
