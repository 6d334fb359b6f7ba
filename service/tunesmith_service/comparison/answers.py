"""A comparison as JSON, for REST and what reads it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tunesmith_service import wire
from tunesmith_service.comparison.groups import Groups, Tried
from tunesmith_service.comparison.lines import Line, Panel
from tunesmith_service.comparison.repeats import Repeat
from tunesmith_service.comparison.side_by_side import Trials


def of_trials(found: Trials) -> dict[str, Any]:
    return {
        "trials": [
            {
                "name": c.name,
                "study": c.study.name,
                "number": c.trial.number,
                "stage": c.trial.stage,
                "state": c.trial.state,
            }
            for c in found.trials
        ],
        "settings": [_values(line) for line in found.params],
        "results": [_with_deltas(line) for line in found.results],
        "repeats": [_repeat(each) for each in found.repeats],
        "panels": _panels(found.panels, "trials"),
    }


def of_groups(found: Groups, kind: str) -> dict[str, Any]:
    """`kind`: studies or stages."""
    return {
        kind: [
            {"name": g.name, "study": g.study.name, "stage": g.stage, "best": best}
            for g, best in zip(found.groups, found.bests, strict=True)
        ],
        "results": [_with_deltas(line) for line in found.results],
        "space": [{"name": row.name, "tried": [_tried(c) for c in row.cells]} for row in found.space],
        "panels": _panels(found.panels, kind),
    }


def _values(line: Line) -> dict[str, Any]:
    return {"name": line.name, "values": _shown([c.value for c in line.cells]), "differs": line.differs}


def _with_deltas(line: Line) -> dict[str, Any]:
    return _values(line) | {"deltas": _shown([c.delta for c in line.cells])}


def _shown(values: Sequence[Any]) -> list[Any]:
    return [wire.show_number(v) if isinstance(v, float) else v for v in values]


def _panels(panels: Sequence[Panel], kind: str) -> list[dict[str, Any]]:
    return [{"metric": p.metric, "direction": p.direction, kind: p.names} for p in panels]


def _repeat(each: Repeat) -> dict[str, Any]:
    paired = each.to_first
    return {
        "trials": each.names,
        "metric": each.metric,
        "mean": each.spread.mean,
        "sd": each.spread.sd,
        "n": each.spread.n,
        "interval": list(each.interval),
        "to_first": paired
        and {
            "difference": paired.difference,
            "sd": wire.show_number(paired.sd),
            "n": paired.n,
            "tie": paired.is_tie,
        },
    }


def _tried(cell: Tried | None) -> dict[str, Any] | None:
    return {"text": cell.text, "values": cell.values, "share": cell.share} if cell else None
