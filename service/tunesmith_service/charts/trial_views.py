"""All views of a trial by name: charts of its curve, its corner of the lineage, and the documents it left."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
from sqlalchemy import Connection

from tunesmith_service import store, trial_store
from tunesmith_service.charts import inspected, lineage, of_trial, told
from tunesmith_service.charts.asked import Asked, ChartQuery
from tunesmith_service.column_cache import ColumnCache
from tunesmith_service.documents import Unread, View
from tunesmith_service.errors import NotFound, Unprocessable
from tunesmith_service.stores import Store

NAMES = (*of_trial.TRIAL_CHARTS, "lineage", "told", *inspected.DOCUMENTS)


def view(  # noqa: PLR0917
    conn: Connection,
    cache: ColumnCache,
    study: store.Study,
    number: int,
    name: str,
    query: of_trial.TrialChartQuery,
) -> View | Unread:
    """A view by its name; JSON. Blocks. Raises: NotFound; Unprocessable, as what is unread does."""
    if name not in NAMES:
        raise NotFound(f"a trial has no view {name!r}; it has {', '.join(NAMES)}")
    trial = _trial(conn, study, number)
    if name == "told":
        return told.view(study, trial)
    if name == "lineage":
        columns = cache.get(conn, study.id)
        keep = np.ones(len(columns), np.bool_)
        return lineage.around(Asked(conn, study, columns, keep, ChartQuery()), number)
    if name in of_trial.TRIAL_CHARTS:
        return of_trial.chart(conn, study, trial, name, query.group)
    found = inspected.find(trial_store.artifacts(conn, trial.id), name)
    if name != "confusion":
        return lambda blobs: inspected.read(blobs, found, name)
    less = _less(conn, study, query.against)
    return lambda blobs: less(blobs, inspected.read(blobs, found, name))


def _less(conn: Connection, study: store.Study, against: int | None) -> Callable[[Store, View], View]:
    """Adds the matrix of trial `against`, to be taken away; without one, the best trial's is offered."""
    best = next(iter(trial_store.best_trials(conn, study)), None)
    offered = {"best": best.number if best else None, "against": None, "less": None}
    if against is None:
        return lambda blobs, mine: mine | offered
    with _as_asked():
        artifact = inspected.find(trial_store.artifacts(conn, _trial(conn, study, against).id), "confusion")

    def add(blobs: Store, mine: View) -> View:
        with _as_asked():
            other = inspected.read(blobs, artifact, "confusion")
        if other["classes"] != mine["classes"]:
            raise Unprocessable(f"trial #{against} was judged on other classes, so nothing can be taken away")
        return mine | offered | {"against": against, "less": other["counts"]}

    return add


@contextmanager
def _as_asked() -> Iterator[None]:
    """What is not found is what the question names, not what it is about."""
    try:
        yield
    except NotFound as e:
        raise Unprocessable(e.detail) from e


def _trial(conn: Connection, study: store.Study, number: int) -> trial_store.Trial:
    found = trial_store.find_trial(conn, study.id, number)
    if found is None:
        raise NotFound(f"study {study.name} has no trial #{number}")
    return found
