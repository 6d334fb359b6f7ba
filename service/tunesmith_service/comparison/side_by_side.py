"""Trials side by side: what differs in how they were set, and what came of it.

Those whose objectives differ in metric or direction stand in panels of their own.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection

from tunesmith_service.comparison import named
from tunesmith_service.comparison.lines import Line, Panel, against_first, panels, plain
from tunesmith_service.comparison.named import OfTrial
from tunesmith_service.comparison.repeats import Repeat, repeats


@dataclass(frozen=True, slots=True)
class Trials:
    """Attributes: `repeats` are configurations of which several seeds are compared."""

    trials: list[OfTrial]
    params: list[Line]
    results: list[Line]
    panels: list[Panel]
    repeats: list[Repeat]


def compared(conn: Connection, project_id: int | None, text: str) -> Trials:
    """Raises: Unprocessable; NotFound for a trial that there is not, or that is another project's."""
    found = named.trials(conn, project_id, text)
    split = panels(found)
    return Trials(found, _params(found), _results(found, split), split, repeats(found))


def _params(found: Sequence[OfTrial]) -> list[Line]:
    """What they were given beside hyperparameters, then these in the order in which the trials have them."""
    names = dict.fromkeys(name for c in found for name in c.trial.params)
    own = [
        plain("stage", [c.trial.stage for c in found]),
        plain("seed", [c.trial.work.get("seed") for c in found]),
        plain("epochs", [c.trial.work.get("epochs") for c in found]),
    ]
    if len({c.study.id for c in found}) > 1:
        own.insert(0, plain("study", [c.study.name for c in found]))
    return [*own, *(plain(name, [c.trial.params.get(name) for c in found]) for name in names)]


def _results(found: Sequence[OfTrial], split: Sequence[Panel]) -> list[Line]:
    """The objective of each panel, then what the last points say, each against the first that has it."""
    lines = []
    for panel in split:
        values = [c.trial.value if c.name in panel.names else None for c in found]
        lines.append(against_first(panel.metric, values, panel.direction))
    shown = {line.name for line in lines}
    metrics = dict.fromkeys(name for c in found for name in c.trial.last_metrics or {})
    for name in metrics:
        if name in shown or name.startswith("sys/"):
            continue
        values = [_number((c.trial.last_metrics or {}).get(name)) for c in found]
        lines.append(against_first(f"{name}, last", values, _direction(name)))
    for name in (n for n in metrics if n.startswith("val/") and n.endswith("loss")):
        gaps = [_gap(c.trial.last_metrics or {}, name) for c in found]
        lines.append(against_first(f"gap, {name} less training's", gaps, "minimize"))
    lines.append(against_first("seconds", [_seconds(c) for c in found], "minimize"))
    lines.append(plain("epochs done", [c.trial.step for c in found]))
    return lines


def _seconds(c: OfTrial) -> float | None:
    """From its first start to its end; 0 of one that runs."""
    start = c.trial.started_us
    return None if start is None else ((c.trial.ended_us or start) - start) / 1e6


def _gap(last: Mapping[str, Any], name: str) -> float | None:
    """How much worse a loss is on what was not trained on."""
    here, there = (_number(last.get(n)) for n in (name, name.replace("val/", "train/", 1)))
    return None if here is None or there is None else here - there


def _number(value: Any) -> float | None:
    return value if isinstance(value, int | float) and math.isfinite(value) else None


def _direction(name: str) -> str | None:
    """Which way a metric is better, where its name says so."""
    if name.endswith(("loss", "error")):
        return "minimize"
    return "maximize" if name.endswith(("accuracy", "f1", "auc")) else None
