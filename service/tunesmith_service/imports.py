"""Trials that were run elsewhere become trials of a stage `imported`, with their curves and ends.

Each goes through the life of any other within one transaction: planned, running, reported, over. So the log,
its fold, the triggers and whoever looks for gaps need to know nothing of them. What they lack is a worker:
their only attempt has no devices, so it cost nothing here, and a lease that no secret opens.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import Row, func, select
from tunesmith_studies.stages import Imported
from tunesmith_studies.trial import IMPORTED, Work

from tunesmith_service import moves
from tunesmith_service.bulk import Change
from tunesmith_service.courses import OPEN, stage_row, study_row
from tunesmith_service.db import dumps
from tunesmith_service.errors import Conflict, NotFound, Refused
from tunesmith_service.moves import Move
from tunesmith_service.plans import insert_trials
from tunesmith_service.tables import attempts, instance, reports, trials
from tunesmith_service.tx import Counts, Happened, Tx, count, record
from tunesmith_service.wishes import ImportTrials

CAUSE = "import"
POINTS = 500
"""Of a report at most, as of one that a worker sends."""
_NO_SECRET = "0" * 64  # what no secret hashes to
_NOBODY = ""  # no worker, no slot

Brought = Mapping[str, Any]


def apply_import_trials(tx: Tx, commands: Sequence[ImportTrials], now_us: int) -> list[int | Refused]:
    return [_import(tx, c, now_us) for c in commands]


def _import(tx: Tx, c: ImportTrials, now_us: int) -> int | Refused:
    study = study_row(tx, c.study_id)
    stage = stage_row(tx, c.study_id, c.stage)
    if study is None or stage is None:
        return NotFound(f"There is no stage {c.stage} in study {c.study_id}.")
    stand = trials.c.stage_id == stage.id
    keys = [_key(t) for t in c.trials]
    known = set(tx.execute(select(trials.c.key).where(stand, trials.c.key.in_(keys))).scalars())
    new = [t for t in c.trials if _key(t) not in known]
    if not new:
        return 0
    come = tx.execute(select(func.count()).where(stand)).scalar_one()
    if refused := _cannot_come(tx, study, stage, new, come):
        return refused
    size = len(new) if study.max_concurrent is None else study.max_concurrent - study.running
    for i in range(0, len(new), size):  # each runs for a moment, so no more than may run at once
        _Import(tx, c, stage, now_us).bring(new[i : i + size])
    return len(new)


def _key(trial: Brought) -> str:
    return f"{IMPORTED}{trial['number']}"


def _cannot_come(
    tx: Tx, study: Row[Any], stage: Row[Any], new: Sequence[Brought], come: int
) -> Refused | None:
    kind = Imported.model_fields["kind"].default
    if stage.kind != kind:
        return Conflict(f"Stage {stage.name} runs its own trials; add one of kind {kind} to import into.")
    if study.state not in OPEN or stage.state != "active":
        where = f"stage {stage.name} is {stage.state}, study {study.name} {study.state}"
        return Conflict(f"Trials are imported into an active stage of a study that is open; {where}.")
    if come + len(new) > stage.spec["trials"]:
        return Conflict(
            f"Stage {stage.name} takes {stage.spec['trials']} trials and has {come}; got {len(new)} more."
        )
    if study.max_trials is not None and study.trial_n + len(new) > study.max_trials:
        left = study.max_trials - study.trial_n
        return Conflict(
            f"Study {study.name} may have {study.max_trials} trials, of which {left} are left; "
            f"got {len(new)} more."
        )
    if study.max_concurrent is not None and study.running >= study.max_concurrent:
        return Conflict(f"Study {study.name} runs as many trials as it may; import again when one has ended.")
    curves = [[point["metrics"] for point in trial["points"]] for trial in new]
    return tx.bounds.refuse_curves(tx, study.id, curves)


class _Import:
    """Some trials on their way from their plan to their end.

    Args:
        stage: its row, under the study's lock.
    """

    def __init__(self, tx: Tx, c: ImportTrials, stage: Row[Any], now_us: int) -> None:
        self._tx, self._c, self._stage, self._now_us = tx, c, stage, now_us

    def bring(self, new: Sequence[Brought]) -> None:
        rows = self._plan(new)
        self._begin(rows, new)
        self._report(rows, new)
        both = zip(self._rows(rows[0].number), new, strict=True)
        moves.change(self._tx, [_end(row, t, self._c.actor) for row, t in both], self._now_us)
        ends = [
            (row.id, t["ended_us"]) for row, t in zip(rows, new, strict=True) if t["ended_us"] is not None
        ]
        self._tx.update(trials, [Change({"id": id_}, {"ended_us": us}) for id_, us in ends])
        self._tx.update(
            attempts, [Change({"trial_id": id_, "attempt": 1}, {"ended_us": us}) for id_, us in ends]
        )

    def _rows(self, first: int) -> Sequence[Row[Any]]:
        """The trials that are coming, whose numbers begin with `first`."""
        wanted = moves.trial_rows()
        return self._tx.execute(
            wanted.where(trials.c.study_id == self._c.study_id, trials.c.number >= first)
        ).all()

    def _plan(self, new: Sequence[Brought]) -> Sequence[Row[Any]]:
        study = study_row(self._tx, self._c.study_id)
        assert study is not None
        newest = select(func.coalesce(func.max(trials.c.ordinal), -1))
        ordinal = self._tx.execute(newest.where(trials.c.stage_id == self._stage.id)).scalar_one() + 1
        waiting = [
            self._waiting(t)
            | {"number": study.trial_n + i, "ordinal": ordinal + i, "planned_at": study.event_n}
            for i, t in enumerate(new)
        ]
        insert_trials(self._tx, waiting, {self._stage.id: self._stage.name}, self._c.actor, self._now_us)
        return self._rows(study.trial_n)

    def _waiting(self, trial: Brought) -> dict[str, Any]:
        spec = self._stage.spec
        return {
            "study_id": self._c.study_id,
            "stage_id": self._stage.id,
            "key": _key(trial),
            "state": "waiting",
            "params": dict(trial["params"]),
            "work": Work(spec["epochs"], 0, data_fraction=spec.get("data_fraction", 1.0)).to_json(),
            "kind": "train",
            "start": None,
            "sampler_state": {},
            "draft": False,
            "hand": False,
            "imported": {name: trial[name] for name in ("number", "attributes")},
            "created_us": self._began_us(trial),
        }

    def _began_us(self, trial: Brought) -> int:
        return self._now_us if trial["started_us"] is None else int(trial["started_us"])

    def _begin(self, rows: Sequence[Row[Any]], new: Sequence[Brought]) -> None:
        incarnation = self._tx.execute(select(instance.c.incarnation)).scalar_one()
        lease = {"incarnation": incarnation, "lease_hash": _NO_SECRET}
        both = list(zip(rows, new, strict=True))
        self._tx.update(
            trials,
            [
                Change({"id": row.id, "state": "waiting", "attempt": 0}, lease | self._running(t))
                for row, t in both
            ],
        )
        held = {"attempt": 1, **lease, "worker_id": _NOBODY, "slot_id": _NOBODY, "devices": 0}
        held |= {"resume_step": 0}
        begun = [
            {
                "trial_id": row.id,
                "claim_id": f"import {row.study_id}:{row.number}",
                "claimed_us": self._began_us(t),
            }
            for row, t in both
        ]
        self._tx.insert(attempts, [held | attempt for attempt in begun])
        data = {"from": "waiting", "to": "running", "attempt": 1, "incarnation": incarnation,
                "cause": CAUSE, "stop_reason": None, "value": None, "resume_step": 0}  # fmt: skip
        happened = [
            Happened(row.study_id, "moved", self._c.actor, data, row.id, row.number, row.stage, cause=CAUSE)
            for row in rows
        ]
        counts = {self._c.study_id: Counts(waiting=-len(rows), running=len(rows))}
        record(self._tx, happened, self._now_us, counts)

    def _running(self, trial: Brought) -> dict[str, Any]:
        points = trial["points"]
        step = points[-1]["step"] if points else 0
        return {
            "state": "running",
            "attempt": 1,
            "lease_expires_us": self._now_us,
            "started_us": self._began_us(trial),
            "report_seq": -(-len(points) // POINTS),
            "step": step,
            "furthest": step,
            "last_metrics": points[-1]["metrics"] if points else None,
        }

    def _report(self, rows: Sequence[Row[Any]], new: Sequence[Brought]) -> None:
        told = [
            {"trial_id": row.id, "attempt": 1, "seq": 1 + i // POINTS, "study_id": row.study_id,
             "trial_number": row.number, "stage": row.stage, "at_us": self._now_us, "points": points,
             "digest": hashlib.sha256(dumps(points).encode()).hexdigest()}
            for row, t in zip(rows, new, strict=True)
            for i in range(0, len(t["points"]), POINTS)
            for points in [t["points"][i : i + POINTS]]
        ]  # fmt: skip
        if told:
            study_id = self._c.study_id
            first = count(self._tx, {study_id: Counts(events=len(told))})[study_id]
            self._tx.insert(reports, [report | {"n": first + i} for i, report in enumerate(told)])


def _end(row: Row[Any], trial: Brought, actor: str) -> Move:
    error = None
    if trial["state"] == "failed":
        message = trial["error"] or "It had failed where it was run."
        error = {"kind": "imported", "message": message, "traceback": ""}
    return Move(
        row, trial["state"], CAUSE, actor, stop_reason=trial["stop_reason"], value=trial["value"], error=error
    )
