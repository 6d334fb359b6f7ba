"""Reads for screens: bests, keyset pages and tails, each no longer than a person can look at.

Beside `store`, which reads one thing or a plain list. Each is a function of a connection.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from typing import Any, Literal

from sqlalchemy import Connection, Row, Select, and_, func, literal, null, or_, select, union_all
from tunesmith_studies.trial import TrialState

from tunesmith_service import store, trial_store
from tunesmith_service.tables import attempts, events, logs, reports, stages, studies, trials, workers

Order = Literal["newest", "best"]

_OF_TRIAL = tuple(trials.c[f.name] for f in fields(trial_store.Trial) if f.name != "stage")


def _trials() -> Select[Any]:
    return select(*_OF_TRIAL, stages.c.name.label("stage")).join(stages, stages.c.id == trials.c.stage_id)


def _better(study: store.Study) -> Any:
    """Ascending is best first."""
    return trials.c.value if study.direction == "minimize" else -trials.c.value


def _read(conn: Connection, wanted: Select[Any]) -> list[trial_store.Trial]:
    return [trial_store.Trial(**row._mapping) for row in conn.execute(wanted)]


def visible_study(conn: Connection, project_id: int | None, study_id: int) -> store.Study | None:
    """A study by id alone (a name may look like one), if it is of this project; of any if None."""
    wanted = select(*(studies.c[f.name] for f in fields(store.Study))).where(studies.c.id == study_id)
    if project_id is not None:
        wanted = wanted.where(studies.c.project_id == project_id)
    row = conn.execute(wanted).one_or_none()
    return store.Study(**row._mapping) if row else None


def stage_bests(conn: Connection, study: store.Study) -> list[trial_store.Trial]:
    """The best complete trial of each stage, best first; ties go to the lower number."""
    ranking = (_better(study), trials.c.number)
    place = func.row_number().over(partition_by=trials.c.stage_id, order_by=ranking).label("place")
    ranked = (
        select(trials.c.id, place)
        .where(trials.c.study_id == study.id, trials.c.value.is_not(None))
        .subquery()
    )
    wanted = _trials().join(ranked, ranked.c.id == trials.c.id).where(ranked.c.place == 1)
    return _read(conn, wanted.order_by(*ranking))


def trials_page(
    conn: Connection,
    study: store.Study,
    *,
    order: Order = "newest",
    stage: str | None = None,
    state: str | None = None,
    after: int | None = None,
    limit: int = 50,
) -> list[trial_store.Trial]:
    """A study's trials, a page at a time.

    Args:
        order: by number, highest first; or complete ones by objective, best first.
        after: number of the last trial of the page before.
    """
    wanted = _trials().where(trials.c.study_id == study.id)
    if stage is not None:
        wanted = wanted.where(stages.c.name == stage)
    if state is not None:
        wanted = wanted.where(trials.c.state == state)
    if order == "newest":
        if after is not None:
            wanted = wanted.where(trials.c.number < after)
        return _read(conn, wanted.order_by(trials.c.number.desc()).limit(limit))
    better = _better(study)
    wanted = wanted.where(trials.c.value.is_not(None))
    if after is not None:
        last = select(better).where(trials.c.study_id == study.id, trials.c.number == after).scalar_subquery()
        wanted = wanted.where(or_(better > last, and_(better == last, trials.c.number > after)))
    return _read(conn, wanted.order_by(better, trials.c.number).limit(limit))


def running_trials(conn: Connection, study: store.Study, *, limit: int) -> list[trial_store.Trial]:
    """The newest of a study's running trials that have an objective."""
    running = (trials.c.state == TrialState.RUNNING, trials.c.kind == "train")
    wanted = _trials().where(trials.c.study_id == study.id, *running)
    return _read(conn, wanted.order_by(trials.c.number.desc()).limit(limit))


def trials_of_kind(conn: Connection, study: store.Study, kind: str, *, limit: int) -> list[trial_store.Trial]:
    """A study's first trials of a kind of work."""
    wanted = _trials().where(trials.c.study_id == study.id, trials.c.kind == kind)
    return _read(conn, wanted.order_by(trials.c.number).limit(limit))


def attempts_of(conn: Connection, trial_id: int) -> Sequence[Row[Any]]:
    """A trial's attempts in order, with the worker's name."""
    wanted = (
        select(attempts, workers.c.name.label("worker"))
        .outerjoin(workers, workers.c.id == attempts.c.worker_id)
        .where(attempts.c.trial_id == trial_id)
        .order_by(attempts.c.attempt)
    )
    return conn.execute(wanted).all()


def log_tail(conn: Connection, trial_id: int, *, chunks: int) -> Sequence[Row[Any]]:
    """The last chunks of the newest attempt that wrote a log, oldest first."""
    newest = select(func.max(logs.c.attempt)).where(logs.c.trial_id == trial_id).scalar_subquery()
    wanted = select(logs).where(logs.c.trial_id == trial_id, logs.c.attempt == newest)
    return conn.execute(wanted.order_by(logs.c.seq.desc()).limit(chunks)).all()[::-1]


def newest_event(conn: Connection, study_id: int) -> int | None:
    """A study's event number; None if there is no such study."""
    return conn.scalar(select(studies.c.event_n).where(studies.c.id == study_id))


def entries_after(conn: Connection, study_id: int, after: int, limit: int) -> list[dict[str, Any]]:
    """The log after event `after` without its data: {n, kind, trial, stage}, and `to` of a move.

    One statement, so that no commit falls between events and reports.
    """
    to = events.c.data["to"].as_string().label("to")
    happened = select(events.c.n, events.c.kind, events.c.trial_number, events.c.stage, to)
    happened = happened.where(events.c.study_id == study_id, events.c.n > after)
    named = literal("reported").label("kind")
    reported = select(reports.c.n, named, reports.c.trial_number, reports.c.stage, null().label("to"))
    reported = reported.where(reports.c.study_id == study_id, reports.c.n > after)
    both = union_all(
        happened.order_by(events.c.n).limit(limit).subquery().select(),
        reported.order_by(reports.c.n).limit(limit).subquery().select(),
    ).subquery()
    rows = conn.execute(select(both).order_by(both.c.n).limit(limit))
    return [
        {"n": r.n, "kind": r.kind, "trial": r.trial_number, "stage": r.stage} | ({"to": r.to} if r.to else {})
        for r in rows
    ]
