"""Charts of what is compared, by the protocol of all charts; each thing keeps its colour from the table."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from tunesmith_service.charts import edf as edf_of
from tunesmith_service.comparison import confusion, curves, groups
from tunesmith_service.comparison.asked import Asked
from tunesmith_service.documents import Unread, View
from tunesmith_service.errors import NotFound, Unprocessable

MOST_POINTS = 2000


def edf(asked: Asked) -> dict[str, Any]:
    found = asked.groups()
    objectives = list(dict.fromkeys((g.metric, g.direction) for g in found))
    if len(objectives) > 1:
        told = " and ".join(f"{metric} ({direction})" for metric, direction in objectives)
        raise Unprocessable(f"values of {told} have no axis in common; ask for a panel of each")
    sign = 1 if not found or found[0].direction == "minimize" else -1
    lines = []
    for group in found:
        columns = asked.cache.get(asked.conn, group.study.id)
        line = edf_of.line(columns, groups.of(group, columns), sign, MOST_POINTS // len(found))
        lines.append({"name": group.label, "kind": group.kind, "dashed": group.dashed} | line)
    metric, direction = objectives[0] if objectives else ("", "minimize")
    return {"metric": metric, "direction": direction} | edf_of.drawn(lines)


VIEWS: Mapping[str, Callable[[Asked], View | Unread]] = {
    "curves": curves.view,
    "edf": edf,
    "confusion": confusion.view,
}


def view(asked: Asked, name: str) -> View | Unread:
    """A view by its name; JSON. Raises: NotFound, and Unprocessable for what cannot be compared."""
    if name not in VIEWS:
        raise NotFound(f"there is no view {name!r} of a comparison; there are {', '.join(VIEWS)}")
    return VIEWS[name](asked)
