"""What people keep of studies, and what not: put away, delete, write down, tag."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import Row, delete, or_, select, update

from tunesmith_service import tables
from tunesmith_service.courses import OPEN, study_row
from tunesmith_service.errors import Changed, Conflict, NotFound, Refused, Unprocessable
from tunesmith_service.notice_tables import deliveries, told
from tunesmith_service.tables import stages, studies, trials
from tunesmith_service.tx import Happened, Tx, record
from tunesmith_service.wishes import DeleteStudy, PutAway, TagTrials, WriteNote

PIECE = 500
"""Trials that one transaction deletes, with all they reported."""

MOST_TAGS = 20

# --- put away, delete -----------------------------------------------------------------------------


def apply_put_away(tx: Tx, commands: Sequence[PutAway], now_us: int) -> list[Refused | None]:
    return [_put_away(tx, c, now_us) for c in commands]


def _put_away(tx: Tx, c: PutAway, now_us: int) -> Refused | None:
    study = study_row(tx, c.study_id)
    if study is None:
        return _no_study(c.study_id)
    if study.archived == c.archived:
        return None
    if c.archived and study.state == "active":
        return Conflict(f"Study {study.name} is active; pause or stop it before it is archived.")
    tx.execute(update(studies).where(studies.c.id == study.id).values(archived=c.archived))
    data = {"state": study.state, "reason": study.reason, "archived": c.archived}
    record(tx, [Happened(study.id, "study", c.actor, data)], now_us)
    return None


def apply_delete_study(tx: Tx, commands: Sequence[DeleteStudy], now_us: int) -> list[bool | Refused]:
    return [_delete_study(tx, c) for c in commands]


def _delete_study(tx: Tx, c: DeleteStudy) -> bool | Refused:
    study = study_row(tx, c.study_id)
    if study is None:
        return True
    if c.name != study.name:
        return Unprocessable(f"To delete study {study.name}, give exactly its name.")
    if study.state in OPEN:
        return Conflict(f"Study {study.name} is {study.state}; stop it before it is deleted.")
    if study.running or study.waiting:
        return Conflict(f"Study {study.name} has trials that run; wait for them, or cancel them.")
    last = select(trials.c.id).where(trials.c.study_id == study.id).order_by(trials.c.number.desc())
    ids = list(tx.execute(last.limit(PIECE)).scalars())
    if ids:
        _delete_trials(tx, study, ids)
        return False
    for table in (tables.reports, tables.events, stages, deliveries, told):
        tx.execute(delete(table).where(table.c.study_id == study.id))
    tx.execute(delete(studies).where(studies.c.id == study.id))
    tx.changed.add(study.id)
    tx.bounds.forget_study(study.id)
    return True


def _delete_trials(tx: Tx, study: Row[Any], ids: Sequence[int]) -> None:
    """Blobs that nothing names any more go with the next `ForgetBlobs`. The newest trials go first, so no
    trial that is left evaluates what is gone."""
    theirs = select(tables.snapshots.c.id).where(tables.snapshots.c.trial_id.in_(ids))
    named = or_(tables.members.c.trial_id.in_(ids), tables.members.c.snapshot_id.in_(theirs))
    tx.execute(delete(tables.members).where(named))
    for table in (
        tables.reports, tables.snapshots, tables.logs, tables.artifacts, tables.attempts, tables.events,
    ):  # fmt: skip
        tx.execute(delete(table).where(table.c.trial_id.in_(ids)))
    tx.execute(delete(trials).where(trials.c.id.in_(ids)))
    left = {"trial_n": study.trial_n - len(ids), "finished": study.finished - len(ids), "archived": True}
    tx.execute(update(studies).where(studies.c.id == study.id).values(left))


# --- notes and tags -------------------------------------------------------------------------------


def apply_write_note(tx: Tx, commands: Sequence[WriteNote], now_us: int) -> list[int | Refused]:
    return [_write_note(tx, c) for c in commands]


def _write_note(tx: Tx, c: WriteNote) -> int | Refused:
    study = study_row(tx, c.study_id)
    if study is None:
        return _no_study(c.study_id)
    if study.note_version != c.version:
        return Changed(
            f"The note of study {study.name} has changed since you read it; put both texts together.",
            outcome={"text": study.note, "version": study.note_version},
        )
    new = {"note": c.text, "note_version": c.version + 1}
    tx.execute(update(studies).where(studies.c.id == study.id).values(new))
    return c.version + 1


def apply_tag_trials(tx: Tx, commands: Sequence[TagTrials], now_us: int) -> list[Refused | None]:
    return [_tag_trials(tx, c) for c in commands]


def _tag_trials(tx: Tx, c: TagTrials) -> Refused | None:
    if study_row(tx, c.study_id) is None:
        return _no_study(c.study_id)
    wanted = select(trials.c.id, trials.c.number, trials.c.tags)
    rows = tx.execute(wanted.where(trials.c.study_id == c.study_id, trials.c.number.in_(c.trials))).all()
    missing = set(c.trials) - {row.number for row in rows}
    if missing:
        return NotFound(f"There is no trial {min(missing)} in this study.")
    for row in rows:
        tags = sorted((set(row.tags or ()) - set(c.remove)) | set(c.add))
        if len(tags) > MOST_TAGS:
            return Unprocessable(f"Trial {row.number} would have {len(tags)} tags; at most {MOST_TAGS}.")
        tx.execute(update(trials).where(trials.c.id == row.id).values(tags=tags or None))
    tx.changed.add(c.study_id)
    return None


def _no_study(study_id: int) -> NotFound:
    return NotFound(f"There is no study {study_id}.")
