"""What trials reported while they trained: the best in front, those that run, and those that were pruned.

    {"metric": "val/loss", "metrics": ["val/loss", "train/loss"], "direction": "minimize", "top": 10,
     "train": true, "range": [0.4, 2.3],
     "curves": [{"number": 24, "stage": "refine", "state": "complete", "rank": 0, "split": "val",
                 "at": [1, 2], "value": [0.9, 0.5], "lost": [], "pruned_at": null}],
     "band": {"at": [1], "low": [0.6], "median": [0.8], "high": [1.1], "trials": 180},
     "said": "…", "shown": 11, "total": 33}

`at` counts epochs, also of trials that count steps. `rank` is 0 for the best by the objective, null for what
is not complete. `split` is "train" for the thin line beside a validation curve. `pruned_at` is where a trial
was cut short by its pruner; its curve ends there. `lost` are places whose value was not finite. `band` is the
middle half of the trials at each place and their median; null where all have lines of their own. `top` is
null where the trials were picked by number.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import Connection
from tunesmith_studies.trial import Point, Work

from tunesmith_service import reading, trial_store
from tunesmith_service.charts.asked import Asked, described
from tunesmith_service.columns import STATES, Columns
from tunesmith_service.ui.curves import MOST_POINTS, decimate, robust_range

MOST_LINES = 50
MOST_BEHIND = 200
"""Trials that a band speaks of."""
DEFAULT_TOP = 10
FEW = 10
"""Lines of running trials, and of pruned ones."""
MOST_READ = 60_000
"""Points of the trials behind a band together; longer curves have fewer trials."""
MOST_MARKS = 40_000
"""Points of all lines together."""
FEWEST = 5
"""Trials that a band needs at a place."""
Series = list[tuple[float, float]]


def view(asked: Asked) -> dict[str, Any]:
    columns = asked.columns
    picked = [int(n) for n in asked.query.pick.split(",") if n] if asked.query.top is None else []
    top = 0 if picked else DEFAULT_TOP if asked.query.top is None else asked.query.top
    ranked, running, pruned = _groups(asked, picked)
    is_crowd = not top and len(ranked) + len(running) + len(pruned) > MOST_LINES
    best = ranked[: FEW if is_crowd else top or MOST_LINES]
    cut = pruned[:FEW] if top or is_crowd else pruned
    front = list(dict.fromkeys([*best.tolist(), *running[:FEW].tolist(), *cut.tolist()]))
    trials = trial_store.numbered(asked.conn, asked.study.id, front)
    found = reading.curves(asked.conn, [t.id for t in trials])
    names = {n for t in trials for n in t.last_metrics or {} if not n.startswith("sys/")}
    metric = asked.query.metric if asked.query.metric in names else asked.metric
    rank = {int(n): i for i, n in enumerate(best)}
    lines = [
        line
        for t in trials
        for line in _lines(t, found.get(t.id, []), metric, rank.get(t.number), asked.query.train)
    ]
    thin(lines)
    behind = np.concatenate((ranked, pruned))
    band = band_of(asked.conn, asked.study.id, behind, metric) if is_crowd else None
    bulk = [v for line in lines if line["state"] != "pruned" for v in line["value"]]
    shown = len({line["number"] for line in lines})
    return {
        **described(asked),
        "metric": metric,
        "metrics": metrics(names, asked.metric),
        "top": None if picked else top,
        "train": asked.query.train,
        "range": robust_range(bulk or [v for line in lines for v in line["value"]]),
        "curves": lines,
        "band": band,
        "said": _said(columns, front, band),
        "shown": shown,
        "total": int((asked.keep & columns.trains).sum()),
    }


def metrics(names: set[str], first: str) -> list[str]:
    """The objective's metric, then validation, then training."""
    splits = ("val", "train")
    place = {n: splits.index(s) if (s := n.partition("/")[0]) in splits else len(splits) for n in names}
    return sorted(names, key=lambda n: (n != first, place[n], n))


def by_epoch(trial: trial_store.Trial, points: Sequence[Point], metric: str) -> Series:
    """(epochs done, value) of each point that has the metric, also of a trial that counts steps."""
    if Work.from_json(trial.work).unit == "epoch":
        return [(p.step, p.metrics[metric]) for p in points if metric in p.metrics]
    return [(p.metrics.get("sys/epoch", p.step), p.metrics[metric]) for p in points if metric in p.metrics]


def _groups(
    asked: Asked, picked: Sequence[int]
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Numbers of the complete trials, best first; of those that run, and those pruned, newest first. Where
    some are picked, of these alone."""
    columns = asked.columns
    here = asked.keep & columns.trains
    if picked:
        here &= np.isin(np.arange(len(columns)), picked)
    complete = np.flatnonzero(here & columns.is_state("complete") & ~np.isnan(columns.value))
    ranked = complete[np.argsort(asked.sign * columns.value[complete], kind="stable")]
    running = np.flatnonzero(here & columns.is_state("running"))[::-1]
    pruned = np.flatnonzero(here & columns.is_state("pruned"))[::-1]
    return ranked, running, pruned


def _lines(
    trial: trial_store.Trial, points: Sequence[Point], metric: str, rank: int | None, train: bool
) -> list[dict[str, Any]]:
    """A trial's curve, and the one of its training split behind it if that is wanted."""
    split, _, group = metric.partition("/")
    wanted = [(metric, split)]
    if train and split == "val" and trial.state != "pruned":
        wanted.append((f"train/{group}", "train"))
    found = []
    for name, of in wanted:
        series = by_epoch(trial, points, name)
        if series:
            cut = series[-1][0] if trial.stop_reason == "pruned" else None
            found.append(line_of(series) | {
                "number": trial.number, "stage": trial.stage, "state": trial.state, "rank": rank,
                "split": of if name == metric else "train", "pruned_at": cut,
            })  # fmt: skip
    return found


def line_of(series: Series) -> dict[str, Any]:
    """A curve's finite points, and where it had others."""
    kept = [p for p in series if math.isfinite(p[1])]
    lost = [at for at, value in series if not math.isfinite(value)][:20]
    return {"at": [at for at, _ in kept], "value": [float(f"{v:.6g}") for _, v in kept], "lost": lost}


def thin(lines: list[dict[str, Any]]) -> None:
    """Each line to its share of what a screen can show; no spike is lost."""
    most = min(max(MOST_MARKS // max(len(lines), 1), 100), MOST_POINTS)
    for line in lines:
        kept = decimate(list(zip(line["at"], line["value"], strict=True)), most)
        line["at"], line["value"] = [at for at, _ in kept], [v for _, v in kept]


def band_of(
    conn: Connection, study_id: int, numbers: NDArray[np.int64], metric: str
) -> dict[str, Any] | None:
    """The middle half and the median of these trials, or of an even sample of them, at each whole epoch."""
    every = max(math.ceil(len(numbers) / MOST_BEHIND), 1)
    trials, read = [], 0
    for t in trial_store.numbered(conn, study_id, numbers[::every].tolist()):
        read += t.step
        if read <= MOST_READ:
            trials.append(t)
    found = reading.curves(conn, [t.id for t in trials])
    at: dict[float, list[float]] = {}
    for t in trials:
        for place, value in by_epoch(t, found.get(t.id, []), metric):
            if math.isfinite(value) and place == int(place):
                at.setdefault(place, []).append(value)
    places = sorted(p for p, values in at.items() if len(values) >= FEWEST)
    if not places:
        return None
    places = places[:: max(math.ceil(len(places) / MOST_POINTS), 1)]
    quarters = np.array([np.percentile(at[p], (25, 50, 75)) for p in places])
    low, median, high = ([float(f"{v:.6g}") for v in column] for column in quarters.T)
    return {"at": places, "low": low, "median": median, "high": high, "trials": len(trials)}


def _said(columns: Columns, front: Sequence[int], band: Mapping[str, Any] | None) -> str:
    """Which trials these are, in words."""
    states = [STATES[columns.state[n]] for n in front]
    lost = sum(bool(columns.diverged[n]) for n in front)
    counts = [
        (states.count("complete"), "best"),
        (states.count("running"), "running"),
        (states.count("pruned") - lost, "pruned, faded"),
        (lost, "diverged, a cross where"),
    ]
    parts = [f"{n} {word}" for n, word in counts if n > 0]
    told = f"Lines: {'; '.join(parts)}." if parts else ""
    if band:
        told += f" Behind them the middle half and the median of {band['trials']} complete and pruned trials."
    return told
