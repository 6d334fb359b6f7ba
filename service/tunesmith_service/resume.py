"""What a claim is given: the snapshots to go on from or to evaluate, and the work order."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

from sqlalchemy import Connection, Executable, Row, func, select

from tunesmith_service.db import ids, rows
from tunesmith_service.tables import members, snapshots, stages, studies, trials


def starting_points(conn: Connection, chosen: Sequence[Row[Any]]) -> dict[int, Row[Any]]:
    """trial id → the snapshot that it goes on from: its own newest, else the one it starts from.

    Args:
        chosen: trials with `id` and `start_snapshot_id`.
    """
    asked = {"batch": rows({"id": t.id} for t in chosen)}
    dialect = conn.dialect.name
    found = {row.trial_id: row for row in conn.execute(_newest(dialect), asked)}
    named = {
        t.id: t.start_snapshot_id for t in chosen if t.start_snapshot_id is not None and t.id not in found
    }
    if named:
        asked = {"batch": rows({"id": i} for i in sorted(set(named.values())))}
        by_id = {row.id: row for row in conn.execute(_snapshots(dialect), asked)}
        found |= {trial: by_id[snapshot] for trial, snapshot in named.items()}
    return found


@cache
def _newest(dialect: str) -> Executable:
    """Of each trial of a batch, its own newest."""
    own = (
        select(func.max(snapshots.c.id))
        .where(snapshots.c.trial_id.in_(ids(dialect)), snapshots.c.forgotten_us.is_(None))
        .group_by(snapshots.c.trial_id)
    )
    return select(snapshots).where(snapshots.c.id.in_(own))


@cache
def _snapshots(dialect: str) -> Executable:
    return select(snapshots).where(snapshots.c.id.in_(ids(dialect)))


def evaluated(conn: Connection, chosen: Sequence[Row[Any]]) -> dict[int, list[Row[Any]]]:
    """trial id → the snapshots that it evaluates, in order; trials that evaluate none are left out.

    Args:
        chosen: trials with `id` and `work`.
    """
    found: dict[int, list[Row[Any]]] = {}
    wanted = [t.id for t in chosen if t.work.get("members")]
    if not wanted:
        return found
    theirs = (
        select(members.c.trial_id.label("evaluation_id"), snapshots)
        .join(snapshots, snapshots.c.id == members.c.snapshot_id)
        .where(members.c.trial_id.in_(ids(conn.dialect.name)))
        .order_by(members.c.trial_id, members.c.place)
    )
    for row in conn.execute(theirs, {"batch": rows({"id": i} for i in wanted)}):
        found.setdefault(row.evaluation_id, []).append(row)
    return found


def order(
    spec: Mapping[str, Any], trial: Row[Any], start: Row[Any] | None, members_: Sequence[Row[Any]] = ()
) -> dict[str, Any]:
    """Everything that a `wire.WorkOrder` needs, as JSON.

    Args:
        spec: the study's.
        trial: with `number`, `params`, `work` and its stage's name as `stage`.
        members_: the snapshots that it evaluates.
    """
    return {
        "study": spec["name"],
        "stage": trial.stage,
        "number": trial.number,
        "task": spec["task"],
        "params": trial.params,
        **trial.work,
        "gpus": (spec.get("resources") or {}).get("gpus"),
        "snapshot_every_seconds": spec.get("snapshot_every_seconds", 600),
        "metric": spec["objective"]["metric"],
        "direction": spec["objective"]["direction"],
        "resume": _ref(start) if start else None,
        "members": [_ref(m) for m in members_],
    }


def _ref(snapshot: Row[Any]) -> dict[str, Any]:
    return {"sha256": snapshot.sha256, "step": snapshot.step, "size": snapshot.size}


def order_of_attempt(conn: Connection, trial_id: int, snapshot_id: int | None) -> dict[str, Any]:
    """The work order of an attempt that runs already, the same as when it was granted."""
    trial: Row[*tuple[Any, ...]] = conn.execute(
        select(
            *(trials.c[name] for name in ("id", "number", "params", "work")),
            stages.c.name.label("stage"),
            studies.c.spec,
        )
        .join(stages, stages.c.id == trials.c.stage_id)
        .join(studies, studies.c.id == trials.c.study_id)
        .where(trials.c.id == trial_id)
    ).one()
    start: Row[Any] | None = None
    if snapshot_id is not None:
        start = conn.execute(select(snapshots).where(snapshots.c.id == snapshot_id)).one()
    return order(trial.spec, trial, start, evaluated(conn, [trial]).get(trial_id, ()))
