"""Publishing stored bytes: snapshots, log chunks, artifacts. The bytes are on disk before the row."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from typing import Any

from sqlalchemy import BigInteger, Row, select
from sqlalchemy.dialects import postgresql, sqlite

from tunesmith_service.bulk import Change
from tunesmith_service.commands import AppendLog, CommitArtifact, CommitSnapshot, Kept, Lease
from tunesmith_service.db import batch, rows
from tunesmith_service.errors import Refused, SeqReused, SnapshotReused
from tunesmith_service.fence import Held, holder, standings
from tunesmith_service.tables import artifacts, blobs, logs, snapshots, trials
from tunesmith_service.tx import Happened, Tx, record

Upload = CommitSnapshot | AppendLog | CommitArtifact


def _held(tx: Tx, commands: Sequence[Upload]) -> tuple[dict[Lease, Row[Any]], dict[Lease, Refused]]:
    where = standings(tx, list(dict.fromkeys(c.lease for c in commands)))
    held = {lease: s.trial for lease, s in where.items() if isinstance(s, Held)}
    return held, {lease: s.refusal for lease, s in where.items() if not isinstance(s, Held)}


def _renew(
    tx: Tx,
    commands: Sequence[Upload],
    outcomes: Sequence[Kept | Refused],
    held: Mapping[Lease, Row[Any]],
    now_us: int,
    *,
    progress: AbstractSet[Lease] = frozenset(),
) -> None:
    """T3 for the leases under which anything was kept; `progress` forgives past losses."""
    kept = {c.lease for c, o in zip(commands, outcomes, strict=True) if isinstance(o, Kept)}
    renewed = [
        Change(
            holder(trial),
            {
                "lease_expires_us": max(trial.lease_expires_us, now_us + tx.ttl_us),
                "losses": 0 if lease in progress else trial.losses,
            },
        )
        for lease, trial in held.items()
        if lease in kept
    ]
    tx.update(trials, renewed)


def _name_blobs(tx: Tx, accepted: Iterable[Upload], now_us: int) -> None:
    make = sqlite.insert if tx.conn.dialect.name == "sqlite" else postgresql.insert
    new = [
        {"sha256": sha, "size": size, "created_us": now_us}
        for sha, size in sorted({(c.sha256, c.size) for c in accepted})
    ]
    statement = make(blobs)
    # Not "do nothing": a server that is about to delete the row, since nothing named it, sees it young.
    young = {"created_us": statement.excluded.created_us}
    tx.execute(statement.on_conflict_do_update(index_elements=["sha256"], set_=young), new)


def apply_snapshot(tx: Tx, commands: Sequence[CommitSnapshot], now_us: int) -> list[Kept | Refused]:
    """From its row on, the trial resumes from this snapshot. It renews the lease, and is progress
    if it lies past every snapshot that the trial has."""
    held, refused = _held(tx, commands)
    known = _committed(tx, [t.id for t in held.values()])
    before = {trial_id: max(step for _, step in theirs) for trial_id, theirs in known.items()}
    accepted: list[CommitSnapshot] = []
    outcomes: list[Kept | Refused] = []
    for c in commands:
        if c.lease in refused:
            outcomes.append(refused[c.lease])
            continue
        theirs = known.setdefault(c.lease.trial_id, {})
        stored = theirs.get((c.lease.attempt, c.step))
        if stored is None:
            theirs[c.lease.attempt, c.step] = c.sha256
            accepted.append(c)
        told = f"This attempt has committed other bytes for step {c.step}; a step's snapshot is final."
        same = stored is None or stored == c.sha256
        outcomes.append(Kept(duplicate=stored is not None) if same else SnapshotReused(told))
    if accepted:
        _publish(tx, accepted, held, now_us)
    past = {c.lease for c in accepted if c.step > before.get(c.lease.trial_id, 0)}
    _renew(tx, commands, outcomes, held, now_us, progress=past)
    return outcomes


def _committed(tx: Tx, trial_ids: Iterable[int]) -> dict[int, dict[tuple[int, int], str]]:
    """trial id → (attempt, step) → sha256."""
    b = batch(tx.dialect, id=BigInteger)
    wanted = select(snapshots).where(snapshots.c.trial_id.in_(select(b.c.id)))
    found: dict[int, dict[tuple[int, int], str]] = {}
    for row in tx.execute(wanted, {"batch": rows({"id": i} for i in trial_ids)}):
        found.setdefault(row.trial_id, {})[row.attempt, row.step] = row.sha256
    return found


def _publish(tx: Tx, accepted: Sequence[CommitSnapshot], held: Mapping[Lease, Row[Any]], now_us: int) -> None:
    _name_blobs(tx, accepted, now_us)
    tx.insert(snapshots, [_snapshot_row(c, now_us) for c in accepted])
    record(tx, [_event(c, held[c.lease]) for c in accepted], now_us)


def _snapshot_row(c: CommitSnapshot, now_us: int) -> dict[str, Any]:
    return {
        "trial_id": c.lease.trial_id,
        "attempt": c.lease.attempt,
        "step": c.step,
        "sha256": c.sha256,
        "size": c.size,
        "committed_us": now_us,
    }


def _event(c: CommitSnapshot, trial: Row[Any]) -> Happened:
    return Happened(
        study_id=trial.study_id,
        kind="snapshot",
        actor=f"worker {trial.worker_id}",
        data={"step": c.step, "attempt": c.lease.attempt},
        trial_id=trial.id,
        trial_number=trial.number,
        stage=trial.stage,
    )


def apply_log(tx: Tx, commands: Sequence[AppendLog], now_us: int) -> list[Kept | Refused]:
    """Chunks of an attempt's log, by seq; a gap is shown as such, since a log is for people."""
    held, refused = _held(tx, commands)
    b = batch(tx.dialect, id=BigInteger)
    wanted = select(logs).where(logs.c.trial_id.in_(select(b.c.id)))
    named = {"batch": rows({"id": t.id} for t in held.values())}
    known = {(row.trial_id, row.attempt, row.seq): row.sha256 for row in tx.execute(wanted, named)}
    accepted: list[AppendLog] = []
    outcomes: list[Kept | Refused] = []
    for c in commands:
        if c.lease in refused:
            outcomes.append(refused[c.lease])
            continue
        key = (c.lease.trial_id, c.lease.attempt, c.seq)
        stored = known.get(key)
        if stored is None:
            known[key] = c.sha256
            accepted.append(c)
        told = f"Log chunk {c.seq} of this attempt was already sent with other text."
        outcomes.append(Kept(stored is not None) if stored in (None, c.sha256) else SeqReused(told))
    if accepted:
        _name_blobs(tx, accepted, now_us)
        tx.insert(logs, [_log_row(c, now_us) for c in accepted])
    _renew(tx, commands, outcomes, held, now_us)
    return outcomes


def _log_row(c: AppendLog, now_us: int) -> dict[str, Any]:
    return {
        "trial_id": c.lease.trial_id,
        "attempt": c.lease.attempt,
        "seq": c.seq,
        "sha256": c.sha256,
        "size": c.size,
        "at_us": now_us,
    }


def apply_artifact(tx: Tx, commands: Sequence[CommitArtifact], now_us: int) -> list[Kept | Refused]:
    """The same name again replaces what it showed; the last of a batch wins."""
    held, refused = _held(tx, commands)
    newest = {(c.lease.trial_id, c.name): c for c in commands if c.lease in held}
    if newest:
        _name_blobs(tx, newest.values(), now_us)
        make = sqlite.insert if tx.conn.dialect.name == "sqlite" else postgresql.insert
        statement = make(artifacts)
        shown = {name: statement.excluded[name] for name in ("attempt", "sha256", "size", "at_us")}
        upsert = statement.on_conflict_do_update(index_elements=["trial_id", "name"], set_=shown)
        tx.execute(upsert, [_artifact_row(c, now_us) for c in newest.values()])
    outcomes = [refused[c.lease] if c.lease in refused else Kept() for c in commands]
    _renew(tx, commands, outcomes, held, now_us)
    return outcomes


def _artifact_row(c: CommitArtifact, now_us: int) -> dict[str, Any]:
    return {
        "trial_id": c.lease.trial_id,
        "name": c.name,
        "attempt": c.lease.attempt,
        "sha256": c.sha256,
        "size": c.size,
        "at_us": now_us,
    }
