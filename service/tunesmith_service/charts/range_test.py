"""A learning-rate range test: its losses over the rate, as they were and smoothed, and what was read of them.

    {"metric": "train/loss", "stages": ["range"], "stage": "range",
     "sweeps": [{"number": 0, "name": "adam, seed 1", "state": "complete", "rate": [1e-5], "loss": [2.3],
                 "smooth": [2.29], "lost": [],
                 "marks": {"begun": [1e-3, 2.1], "steepest": […], "suggested": […], "turns up": […]},
                 "silent": ""}],
     "chosen": [{"name": "adam", "lr": 0.0024, "low": 0.004, "high": 0.04, "max": 0.16, "spread": 1.2,
                 "seeds": 2}],
     "why": "A rate of …", "rule": "valley: …", "taken": ["Stage coarse took it: its rates go …"],
     "range": [1.1, 2.4], "shown": 2}

`marks` are (rate, smoothed loss) of a sweep that says something, else `silent` is the reason. What comes
before `begun` is burn-in, which the rule leaves out. `chosen` is what the stage's result holds for later
stages; empty before it has ended. `lost` are rates whose loss was not finite.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
from pydantic import ValidationError
from tunesmith_studies import rates
from tunesmith_studies.planning import StageResult
from tunesmith_studies.stages.lr_range_test import RULE, Given, LrRangeTest
from tunesmith_studies.study import StudySpec
from tunesmith_studies.trial import TrialState

from tunesmith_service import overviews, reading, store
from tunesmith_service.charts.asked import Asked
from tunesmith_service.trial_store import Trial
from tunesmith_service.ui import formats
from tunesmith_service.ui.curves import MOST_POINTS, decimate, robust_range

MOST_SWEEPS = 20
MOST_TRIALS = 200
MOST_KNOWN = 64
Floats = tuple[float, ...]


def view(asked: Asked) -> dict[str, Any]:
    trials = [
        t
        for t in overviews.trials_of_kind(asked.conn, asked.study, "range_test", limit=MOST_TRIALS)
        if asked.keep[t.number]
    ]
    stages = store.stages(asked.conn, asked.study.id)
    named = [s.name for s in stages if any(t.stage == s.name for t in trials)]
    empty = {"metric": rates.LOSS, "stages": named, "sweeps": [], "shown": 0}
    if not named:
        return empty | {"stage": "", "chosen": [], "why": "", "rule": RULE, "taken": [], "range": None}
    stage = asked.query.stage if asked.query.stage in named else named[-1]
    row = next(s for s in stages if s.name == stage)
    here = [t for t in trials if t.stage == stage][:MOST_SWEEPS]
    chosen = rates.suggestions(StageResult.from_json(row.result)) if row.result else ()
    chosen = tuple(s for s in chosen if any(s.fits(t.params) for t in here))
    sweeps = _sweeps(asked, here)
    return empty | {
        "stage": stage,
        "sweeps": sweeps,
        "chosen": [s.to_json() | {"name": _words(s.given)} for s in chosen],
        "why": str((row.result or {}).get("why", "")),
        "rule": RULE,
        "taken": _taken(asked, stages, stage) if chosen else [],
        "range": _range(sweeps),
        "shown": len(sweeps),
    }


def _sweeps(asked: Asked, trials: Sequence[Trial]) -> list[dict[str, Any]]:
    """Named by what differs between them, and by which of its kind each is."""
    curves = reading.curves(asked.conn, [t.id for t in trials])
    differ = [n for n in _names(trials) if len({repr(t.params.get(n)) for t in trials}) > 1]
    found, seeds = [], dict[str, int]()
    for trial in trials:
        words = _words({n: trial.params[n] for n in differ if n in trial.params})
        seeds[words] = seeds.get(words, 0) + 1
        told = _told(rates.Sweep.of(curves.get(trial.id, [])), is_over=trial.state == TrialState.COMPLETE)
        name = ", ".join(filter(None, (words, f"seed {seeds[words]}")))
        found.append({"number": trial.number, "name": name, "state": trial.state} | told)
    return found


def _names(trials: Sequence[Trial]) -> list[str]:
    return list(dict.fromkeys(name for t in trials for name in t.params))


def _words(given: Given) -> str:
    """
    >>> _words({"optimizer": "adam", "batch_size": 32})
    'adam, batch_size 32'
    """
    return ", ".join(str(v) if n == "optimizer" else f"{n} {v}" for n, v in given.items())


def _told(sweep: rates.Sweep, *, is_over: bool) -> dict[str, Any]:
    """The sweep's losses, and what the rule reads of them; of one that goes on, its losses alone."""
    finite = sweep.finite()
    at, losses = tuple(finite.rates), tuple(finite.losses)
    smooth, read = _read(at, losses) if len(at) >= rates.FEWEST else ((), "")
    lost = [r for r, loss in zip(sweep.rates, sweep.losses, strict=True) if not math.isfinite(loss)]
    if is_over and not smooth:
        read = rates.read(sweep) if sweep.rates else "it reported no losses"
    raw = decimate(list(zip(at, losses, strict=True)), MOST_POINTS // 2)
    shown = [bisect_left(at, rate) for rate, _ in raw]
    return {
        "rate": [_digits(rate) for rate, _ in raw],
        "loss": [_digits(loss) for _, loss in raw],
        "smooth": [_digits(smooth[i]) for i in shown] if smooth else [],
        "lost": [_digits(rate) for rate in lost[:20]],
        "marks": _marks(at, smooth, read) if is_over and isinstance(read, rates.Reading) else {},
        "silent": read if is_over and isinstance(read, str) else "",
    }


@lru_cache(maxsize=MOST_KNOWN)
def _read(at: Floats, losses: Floats) -> tuple[Floats, rates.Reading | str]:
    """Finished sweeps never change, and a thousand losses take a tenth of a second to smooth."""
    sweep = rates.Sweep(at, losses)
    return tuple(sweep.smoothed()[0]), rates.read(sweep)


def _marks(at: Floats, smooth: Floats, read: rates.Reading) -> dict[str, list[float]]:
    marks = {"begun": read.begun, "steepest": read.steepest, "suggested": read.lr, "turns up": read.turn_up}
    heights = np.interp(np.log(list(marks.values())), np.log(at), smooth)
    return {
        name: [_digits(rate), _digits(float(y))]
        for (name, rate), y in zip(marks.items(), heights, strict=True)
    }


def _range(sweeps: Sequence[Mapping[str, Any]]) -> tuple[float, float] | None:
    """From the lowest loss to somewhat above those before the turn, however high it then blows up."""
    before, lowest = [], math.inf
    for sweep in sweeps:
        end = sweep["marks"]["turns up"][0] if sweep["marks"] else math.inf
        before += [y for x, y in zip(sweep["rate"], sweep["loss"], strict=True) if x <= end]
        lowest = min([lowest, *sweep["loss"]])
    bulk = robust_range(before)
    if bulk is None:
        return None
    low = min(bulk[0], lowest)
    return low, bulk[1] + 0.15 * (bulk[1] - low)


def _taken(asked: Asked, stages: Sequence[store.StageRow], test: str) -> list[str]:
    """Which later stages place their rates around what this one chose, and the rates that they tried."""
    spec = {**asked.study.spec, "stages": [s.spec for s in stages]}
    try:
        study = StudySpec.from_json(spec)
    except ValidationError:  # written by another version
        return []
    said = []
    for stage in study.stages:
        if isinstance(stage, LrRangeTest) or stage.range_test_in(study) != test:
            continue
        rate = asked.columns.numbers.get("lr")
        here = asked.columns.stage == asked.columns.stages.index(stage.name)
        tried = rate[here & ~np.isnan(rate)] if rate is not None else np.empty(0)
        if len(tried):
            low, high = (formats.number(float(v), pad=False) for v in (tried.min(), tried.max()))
            said.append(f"Stage {stage.name} took it: its rates go from {low} to {high}.")
        else:
            said.append(f"Stage {stage.name} will take it.")
    return said


def _digits(value: float) -> float:
    return float(f"{value:.6g}")
