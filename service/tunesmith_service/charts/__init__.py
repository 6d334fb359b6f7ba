"""What charts draw, worked out on the server so that a page gets no more than a screen can show.

One view a module, each a function of what was `Asked`; `CHARTS` has them by name. The dashboard and the REST
interface give the same answers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from sqlalchemy import Connection

from tunesmith_service import spaces, store
from tunesmith_service.charts import (
    curves,
    edf,
    failures,
    history,
    importance,
    lineage,
    map,
    parallel,
    pareto,
    pruning,
    range_test,
    slices,
    timeline,
)
from tunesmith_service.charts.asked import Asked, ChartQuery
from tunesmith_service.column_cache import ColumnCache
from tunesmith_service.errors import NotFound

CHARTS: Mapping[str, Callable[[Asked], dict[str, Any]]] = {
    "curves": curves.view,
    "history": history.view,
    "map": map.view,
    "importance": importance.view,
    "timeline": timeline.view,
    "parallel": parallel.view,
    "slices": slices.view,
    "failures": failures.view,
    "lineage": lineage.view,
    "pruning": pruning.view,
    "edf": edf.view,
    "pareto": pareto.view,
    "range_test": range_test.view,
}


__all__ = ["CHARTS", "Asked", "ChartQuery", "chart"]


def chart(
    conn: Connection, cache: ColumnCache, study: store.Study, name: str, query: ChartQuery
) -> dict[str, Any]:
    """A view by its name; JSON. Raises NotFound, and Unprocessable for a query that it cannot answer."""
    if name not in CHARTS:
        raise NotFound(f"there is no view {name!r}; there are {', '.join(CHARTS)}")
    columns = cache.get(conn, study.id)
    keep = cache.picked(conn, study, columns, query.filter)
    return CHARTS[name](Asked(conn, spaces.now(conn, study), columns, keep, query))
