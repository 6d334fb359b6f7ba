"""Reads for screens: bests, keyset pages and tails, each no longer than a person can look at.

Beside `store`, which reads one thing or a plain list. Each is a function of a connection.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from typing import Any

from sqlalchemy import Connection, Row, Select, func, literal, null, select, union_all
from tunesmith_studies.trial import StudyState, TrialState

from tunesmith_service import again, store, trial_store
from tunesmith_service.errors import NotFound
from tunesmith_service.tables import attempts, events, logs, reports, stages, studies, trials, workers

_OF_TRIAL = tuple(trials.c[f.name] for f in fields(trial_store.Trial) if f.name != "stage")


def _trials() -> Select[Any]:
    return select(*_OF_TRIAL, stages.c.name.label("stage")).join(stages, stages.c.id == trials.c.stage_id)


def _read(conn: Connection, wanted: Select[Any]) -> list[trial_store.Trial]:
    return [trial_store.Trial(**row._mapping) for row in conn.execute(wanted)]


def visible_study(conn: Connection, project_id: int | None, study_id: int) -> store.Study:
    """A study by id alone (a name may look like one), if it is of this project; of any if None.

    Raises: NotFound, also for a study of another project.
    """
    wanted = select(*(studies.c[f.name] for f in fields(store.Study))).where(studies.c.id == study_id)
    if project_id is not None:
        wanted = wanted.where(studies.c.project_id == project_id)
    row = conn.execute(wanted).one_or_none()
    if row is None:
        raise NotFound(f"there is no study {study_id}")
    return store.Study(**row._mapping)


def largest_active(conn: Connection, *, limit: int) -> list[int]:
    """Ids of the active studies that have the most trials."""
    wanted = select(studies.c.id).where(studies.c.state == StudyState.ACTIVE)
    return list(conn.execute(wanted.order_by(studies.c.trial_n.desc(), studies.c.id).limit(limit)).scalars())


def stage_bests(conn: Connection, study: store.Study) -> list[trial_store.Trial]:
    """The best complete trial of each stage, best first; ties go to the lower number."""
    sign = 1 if study.direction == "minimize" else -1
    best_first = trials.c.value if sign > 0 else trials.c.value.desc()
    found: list[trial_store.Trial] = []
    for stage_id in conn.scalars(select(stages.c.id).where(stages.c.study_id == study.id)).all():
        # a look into an index for each stage; ranking all trials by a window would read all of them
        here = (trials.c.study_id == study.id, trials.c.stage_id == stage_id)
        complete = (trials.c.state == TrialState.COMPLETE, trials.c.value.is_not(None))
        wanted = _trials().where(*here, *complete).order_by(best_first, trials.c.number).limit(1)
        found += _read(conn, wanted)
    return sorted(found, key=lambda t: (sign * (t.value or 0.0), t.number))


def running_trials(conn: Connection, study: store.Study, *, limit: int) -> list[trial_store.Trial]:
    """The newest of a study's running trials that have an objective."""
    running = (trials.c.state == TrialState.RUNNING, trials.c.kind == "train")
    wanted = _trials().where(trials.c.study_id == study.id, *running)
    return _read(conn, wanted.order_by(trials.c.number.desc()).limit(limit))


def trials_of_kind(conn: Connection, study: store.Study, kind: str, *, limit: int) -> list[trial_store.Trial]:
    """A study's first trials of a kind of work."""
    wanted = _trials().where(trials.c.study_id == study.id, trials.c.kind == kind)
    return _read(conn, wanted.order_by(trials.c.number).limit(limit))


def later_tries(conn: Connection, trial: trial_store.Trial) -> Sequence[Row[Any, Any]]:
    """Number and state of the trials that tried the same key again after this one, oldest first."""
    wanted = select(trials.c.number, trials.c.state).join(stages, stages.c.id == trials.c.stage_id)
    wanted = wanted.where(
        stages.c.study_id == trial.study_id, stages.c.name == trial.stage,
        trials.c.key.in_(again.keys_of_tries(trial.key)), trials.c.number > trial.number,
    )  # fmt: skip
    return conn.execute(wanted.order_by(trials.c.number)).all()


def variants_of(conn: Connection, trial: trial_store.Trial, *, limit: int) -> list[int]:
    """Numbers of the newest trials that people queued like this one, oldest first."""
    wanted = select(trials.c.number).where(
        trials.c.study_id == trial.study_id, trials.c.variant_of == trial.number
    )
    return sorted(conn.execute(wanted.order_by(trials.c.number.desc()).limit(limit)).scalars())


def names_like(conn: Connection, project_id: int, name: str) -> set[str]:
    """Names of a project's studies that begin with this one."""
    wanted = select(studies.c.name).where(studies.c.project_id == project_id)
    return set(conn.execute(wanted.where(studies.c.name.startswith(name, autoescape=True))).scalars())


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
