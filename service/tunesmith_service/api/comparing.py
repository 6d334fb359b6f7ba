"""Trials, studies or stages side by side, as the dashboard's page has them."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Query
from sqlalchemy import Connection

from tunesmith_service.api import examples
from tunesmith_service.api.deps import ServiceDep, WhoDep, one_of, problem
from tunesmith_service.comparison import answers, groups, side_by_side, views
from tunesmith_service.comparison.asked import Asked, ChartQuery, Named, groups_of
from tunesmith_service.documents import Unread, View, shown
from tunesmith_service.routing import router
from tunesmith_service.security import Role, allow

routes: APIRouter = router(prefix="/compare", tags=["trials"])

COMPARED = {
    "trials": [
        {"name": "1:55", "study": "digits-demo", "number": 55, "stage": "refine", "state": "complete"},
        {"name": "1:48", "study": "digits-demo", "number": 48, "stage": "refine", "state": "complete"},
    ],
    "settings": [{"name": "lr", "values": [0.01, 0.02], "differs": True}],
    "results": [{"name": "val/loss", "values": [0.353, 0.401], "deltas": [None, 0.048], "differs": True}],
    "repeats": [],
    "panels": [{"metric": "val/loss", "direction": "minimize", "trials": ["1:55", "1:48"]}],
}
EDF = {
    "metric": "val/loss", "direction": "minimize", "range": [0.35, 0.9], "shown": 1,
    "lines": [{
        "name": "digits-demo refine", "kind": 0, "dashed": False, "at": [0.353, 0.401], "share": [0.5, 1.0],
        "n": 2, "ended": 2,
    }],
}  # fmt: skip


@routes.get("", responses=problem(404, 422) | examples.answer(COMPARED))
@allow(Role.VIEWER)
async def compare(service: ServiceDep, who: WhoDep, named: Annotated[Named, Query()]) -> dict[str, Any]:
    """Trials: how they were set and what came of it; `repeats` are those of one configuration with several
    seeds. Studies or stages: their best, counts and costs as `results`, and where each looked as `space`.
    Differences are to the first. Those of one panel have the same objective; values of different panels have
    no axis in common."""
    kind = named.kind()
    if kind == "trials":
        return answers.of_trials(await service.read(side_by_side.compared, who.project_id, named.trials))

    def read(conn: Connection) -> groups.Groups:
        found = groups_of(conn, who.project_id, named)
        return groups.compared(conn, service.columns, found, service.clock.now_us())

    return answers.of_groups(await service.read(read), kind)


@routes.get("/views/{view}", responses=problem(404, 422) | examples.answer(EDF))
@allow(Role.VIEWER)
async def compare_view(
    service: ServiceDep,
    who: WhoDep,
    view: Annotated[str, one_of(views.VIEWS)],
    query: Annotated[ChartQuery, Query()],
) -> dict[str, Any]:
    """What a chart of a comparison draws, in columns, no longer than a screen can show."""

    def find(conn: Connection) -> View | Unread:
        return views.view(Asked(conn, service.columns, who.project_id, query), view)

    return await shown(service, find)
