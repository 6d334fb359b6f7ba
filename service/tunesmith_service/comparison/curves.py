"""Curves of what is compared: each trial's own, or the best few of each study or stage.

    {"metric": "loss", "metrics": ["loss", "accuracy"], "top": 3, "range": [0.4, 2.3],
     "curves": [{"name": "#55 val/loss", "kind": 0, "dashed": false, "train": false, "first": true,
                 "at": [1], "value": [0.9], "lost": []}],
     "bands": [{"name": "coarse", "kind": 0, "dashed": false, "at": [1], "low": [0.6], "median": [0.8],
                "high": [1.1], "trials": 25}], "said": "…", "shown": 2}

More than MOST_LINES of studies or stages are the middle half and the median of each. Of trials, training
stands beside validation.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tunesmith_service import reading, trial_store
from tunesmith_service.charts.curves import band_of, by_epoch, line_of, thin
from tunesmith_service.comparison import groups
from tunesmith_service.comparison.asked import Asked
from tunesmith_service.comparison.named import Group, OfTrial
from tunesmith_service.ui.curves import robust_range

MOST_LINES = 20
Line = dict[str, Any]


@dataclass(frozen=True, slots=True)
class _Bundle:
    """Trials that are drawn in one colour, by their numbers, the best first."""

    of: Group | OfTrial
    numbers: NDArray[np.int64]

    def colour(self) -> dict[str, Any]:
        return {"kind": self.of.kind, "dashed": self.of.dashed}


def view(asked: Asked) -> dict[str, Any]:
    is_trials = asked.query.kind() == "trials"
    bundles = _trials(asked) if is_trials else _groups(asked)
    is_crowd = sum(len(b.numbers) for b in bundles) > MOST_LINES
    most = 1 if is_crowd else MOST_LINES  # of a crowd the best say what there is to see
    trials = [trial_store.numbered(asked.conn, b.of.study.id, b.numbers[:most].tolist()) for b in bundles]
    found = reading.curves(asked.conn, [t.id for each in trials for t in each])
    names = {n for points in found.values() for p in points for n in p.metrics}
    metrics = sorted({_group(n) for n in names if not n.startswith("sys/")})
    first = _group(bundles[0].of.metric) if bundles else ""
    wanted = asked.query.metric if asked.query.metric in metrics else first
    splits = [n for n in (f"val/{wanted}", f"train/{wanted}", wanted) if n in names]
    if not is_trials:
        splits = splits[:1]
    lines: list[Line] = []
    if not is_crowd:
        lines = [line for b, of in zip(bundles, trials, strict=True) for line in _lines(b, of, found, splits)]
        thin(lines)
    bands = [band for b in bundles for name in splits for band in _band(asked, b, name)] if is_crowd else []
    values = [v for line in lines for v in line["value"]]
    values += [v for band in bands for end in ("low", "high") for v in band[end]]
    return {
        "metric": wanted,
        "metrics": metrics,
        "top": None if is_trials else asked.query.top,
        "range": robust_range(values),
        "curves": lines,
        "bands": bands,
        "said": _said(is_trials, lines, bands),
        "shown": len(lines) + len(bands),
    }


def _group(metric: str) -> str:
    return metric.partition("/")[2] or metric


def _trials(asked: Asked) -> list[_Bundle]:
    return [_Bundle(c, np.array([c.trial.number], np.int64)) for c in asked.trials()]


def _groups(asked: Asked) -> list[_Bundle]:
    found = []
    for group in asked.groups():
        best = groups.ranked(group, asked.cache.get(asked.conn, group.study.id))
        found.append(_Bundle(group, best[: asked.query.top or None]))
    return found


def _lines(
    bundle: _Bundle, trials: Sequence[trial_store.Trial], found: Mapping[int, Any], splits: Sequence[str]
) -> list[Line]:
    lines: list[Line] = []
    for i, trial in enumerate(trials):
        for name in splits:
            if points := by_epoch(trial, found.get(trial.id, []), name):
                about = name if isinstance(bundle.of, OfTrial) else bundle.of.label
                more = {
                    "name": f"#{trial.number} {about}",
                    "train": name.startswith("train/"),
                    "first": i == 0,
                }
                lines.append(line_of(points) | more | bundle.colour())
    return lines


def _band(asked: Asked, bundle: _Bundle, name: str) -> list[Line]:
    assert isinstance(bundle.of, Group), "so few trials are no crowd"
    found = band_of(asked.conn, bundle.of.study.id, bundle.numbers, name) if len(bundle.numbers) else None
    return [found | {"name": bundle.of.label} | bundle.colour()] if found else []


def _said(is_trials: bool, lines: Sequence[Line], bands: Sequence[Line]) -> str:
    if bands:
        of = ", ".join(f"{band['name']} ({band['trials']} trials)" for band in bands)
        return f"More than {MOST_LINES} curves: the middle half and the median of {of} at each epoch."
    if is_trials:
        return "Whole lines are validation, dotted ones training." if any(x["train"] for x in lines) else ""
    return "The best of each stands out." if lines else ""
