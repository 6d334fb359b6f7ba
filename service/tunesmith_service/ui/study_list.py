"""The list of studies: which it shows, in which order, and a line each. What was asked for stands in the
page's address."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Literal
from urllib.parse import urlencode

from sqlalchemy import ColumnElement, Connection, case, func, select
from tunesmith_studies.trial import StageState, StudyState

from tunesmith_service import store
from tunesmith_service.security import Who
from tunesmith_service.standings import StageStanding, Standing, standings
from tunesmith_service.tables import studies, trials

PAGE = 50

Order = Literal["newest", "oldest", "name", "best", "hours"]
ORDERS: dict[Order, str] = {
    "newest": "newest", "oldest": "oldest", "name": "name", "best": "best value", "hours": "GPU-hours",
}  # fmt: skip
STATES = ("", *StudyState, "archived")


@dataclass(frozen=True, slots=True)
class Asked:
    """What a person asked for; empty words ask for all. Archived studies are shown by themselves."""

    search: str = ""
    state: str = ""
    owner: str = ""
    order: Order = "newest"
    page: int = 0

    def href(self, **changes: Any) -> str:
        asked = replace(self, **changes)
        usual = Asked()
        kept = {
            f.name: getattr(asked, f.name)
            for f in fields(asked)
            if getattr(asked, f.name) != getattr(usual, f.name)
        }
        return f"?{urlencode(kept)}" if kept else ""

    @property
    def narrows(self) -> bool:
        return bool(self.search or self.state or self.owner or self.page)


@dataclass(frozen=True, slots=True)
class Line:
    """A study in the list; `now` is where its stages stand, in a few words."""

    row: store.Study
    metric: str
    stages: Sequence[StageStanding]
    now: str
    standing: Standing
    owner: str


def lines(conn: Connection, who: Who, asked: Asked, now_us: int) -> tuple[list[Line], bool]:
    """A page of studies, and whether there are more; as many statements whatever the number of studies."""
    found = rows(conn, who, asked)
    shown = standings(conn, found[:PAGE], now_us)
    return [_line(s) for s in shown], len(found) > PAGE


def _line(found: Standing) -> Line:
    return Line(
        row=found.study,
        metric=found.study.spec["objective"]["metric"],
        stages=found.stages,
        now=_now(found.stages),
        standing=found,
        owner=owner(found.study.created_by),
    )


def owner(actor: str | None) -> str:
    """Who a log's actor is, without the role.

    >>> owner("researcher:ann"), owner(None)
    ('ann', '')
    """
    return (actor or "").partition(":")[2]


def _now(stages: Sequence[StageStanding]) -> str:
    over = sum(s.state not in (StageState.PENDING, StageState.ACTIVE) for s in stages)
    active = [s.name for s in stages if s.state == StageState.ACTIVE]
    if active:
        return f"{', '.join(active)} {over + 1}/{len(stages)}"
    done = sum(s.state == StageState.DONE for s in stages)
    return f"all {done} done" if done == len(stages) else f"{done} of {len(stages)} done"


def rows(conn: Connection, who: Who, asked: Asked) -> list[store.Study]:
    """A page of studies, and one more if there are more."""
    s = studies
    wanted = select(*(s.c[f.name] for f in fields(store.Study))).where(*_those(who, asked))
    wanted = wanted.order_by(*_order(asked.order)).limit(PAGE + 1).offset(asked.page * PAGE)
    return [store.Study(**row._mapping) for row in conn.execute(wanted)]


def owners(conn: Connection, who: Who) -> list[str]:
    """Who created what there is, as the log names them."""
    wanted = select(studies.c.created_by).distinct().where(studies.c.created_by.is_not(None))
    if who.project_id is not None:
        wanted = wanted.where(studies.c.project_id == who.project_id)
    return [str(name) for name in conn.execute(wanted.order_by(studies.c.created_by)).scalars()]


def _those(who: Who, asked: Asked) -> list[ColumnElement[bool]]:
    s = studies
    found: list[ColumnElement[bool]] = [s.c.archived.is_(asked.state == "archived")]
    if who.project_id is not None:
        found.append(s.c.project_id == who.project_id)
    if asked.state and asked.state != "archived":
        found.append(s.c.state == asked.state)
    if asked.owner:
        found.append(s.c.created_by == asked.owner)
    if asked.search:
        found.append(func.lower(s.c.name).contains(asked.search.lower(), autoescape=True))
    return found


def _order(order: Order) -> list[ColumnElement[Any]]:
    s = studies
    if order == "best":  # lower first where lower is better; the index on (study_id, value) has both ends
        value = trials.c.value
        of_study = trials.c.study_id == s.c.id
        least = select(func.min(value)).where(of_study).correlate(s).scalar_subquery()
        most = select(func.max(value)).where(of_study).correlate(s).scalar_subquery()
        is_minimized = s.c.spec["objective"]["direction"].as_string() == "minimize"
        ranked = case((is_minimized, least), else_=-most)
        return [case((is_minimized, 0), else_=1), ranked.is_(None), ranked, s.c.id.desc()]
    if order == "name":
        return [func.lower(s.c.name), s.c.id]
    if order == "hours":
        return [s.c.gpu_us.desc(), s.c.id.desc()]
    return [s.c.id.asc() if order == "oldest" else s.c.id.desc()]
