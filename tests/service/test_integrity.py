"""Whatever is broken by hand behind the service's back is named; a sound database has no finding."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
from factories import Bench
from sqlalchemy.exc import OperationalError, ProgrammingError
from tunesmith_service import commands as c
from tunesmith_service import db, integrity
from tunesmith_service.blobs import BlobStore

BYTES = {"snapshot": b"weights", "log": b"epoch 1\n", "artifact": b"a plot"}


@pytest.fixture
def blobs(tmp_path: Path) -> BlobStore:
    store = BlobStore(tmp_path / "blobs")
    store.prepare()
    return store


@pytest.fixture
def lived(bench: Bench, blobs: BlobStore) -> Bench:
    """A study with a trial that was lost and resumed, ones that are over, one that runs, one that waits."""
    study = bench.study()
    for _ in range(4):
        bench.trial(study)
    sha = {kind: blobs.put_bytes(body) for kind, body in BYTES.items()}
    slot = bench.register()[0]
    first = bench.claim(slot)
    bench.report(first, 1, 0.5)
    bench.do(c.CommitSnapshot(first.lease, 1, sha["snapshot"], len(BYTES["snapshot"])))
    bench.do(c.AppendLog(first.lease, 1, sha["log"], len(BYTES["log"])))
    bench.do(c.CommitArtifact(first.lease, "plot.png", sha["artifact"], len(BYTES["artifact"])))
    bench.expire()
    resumed = bench.claim(slot)
    bench.report(resumed, 1, 0.4, 0.3, step=2)
    bench.finish(resumed)
    bench.finish(bench.claim(slot), "pruned", "diverged")
    running = bench.claim(slot)
    bench.report(running, 1, 0.6)
    bench.report(running, 2, 0.5)
    return bench


def by_hand(bench: Bench, statement: str) -> None:
    """Past triggers and foreign keys."""
    before = {
        "sqlite": (
            "PRAGMA foreign_keys=OFF",
            *(f"DROP TRIGGER {name}" for name in ("trials_move", "trials_attempt", "audit_change")),
        ),
        "postgresql": ("SET session_replication_role = replica",),
    }
    connection = bench.engine.raw_connection()
    cursor = connection.cursor()
    for each in (*before[bench.engine.dialect.name], statement):
        cursor.execute(each)
    connection.commit()
    connection.invalidate()


def found(bench: Bench, blobs: BlobStore) -> list[tuple[str, str]]:
    return [(b.invariant, b.said) for b in integrity.examine(bench.engine, blobs)]


def test_a_sound_database_has_no_finding(lived: Bench, blobs: BlobStore) -> None:
    assert found(lived, blobs) == []


CORRUPTIONS = {
    "an attempt is gone": (
        "DELETE FROM attempts WHERE trial_id = 1 AND attempt = 1", "I1",
        "trial id 1 has had 2 attempts; there are 1",
    ),
    "a trial has run more often than it was claimed": (
        "UPDATE trials SET attempt = 7 WHERE id = 2", "I1", "trial id 2 has had 7 attempts; there are 1",
    ),
    "a lease is not the attempt's": (
        "UPDATE attempts SET lease_hash = 'x' WHERE trial_id = 3", "I1",
        "trial id 3 runs under a lease that is not its attempt 1",
    ),
    "an attempt that was lost is open": (
        "UPDATE attempts SET ended_us = NULL, ending = NULL WHERE trial_id = 1 AND attempt = 1", "I1",
        "attempt 1 of trial id 1 is open",
    ),
    "the end is not in the log": (
        "UPDATE events SET kind = 'snapshot' WHERE trial_id = 2 AND cause = 'finish'", "I3",
        "trial id 2 is pruned, and 0 events ended it",
    ),
    "a trial that is over runs again": (
        "UPDATE trials SET state = 'waiting', stop_reason = NULL WHERE id = 2", "I3",
        "trial id 2 is waiting, and 1 events ended it",
    ),
    "a trial is trained after its end": (
        "INSERT INTO events (study_id, n, kind, trial_id, at_us, actor, data) "
        "VALUES (1, 99, 'snapshot', 2, 1, 'x', '{}')", "I3",
        "trial id 2 was over before event 99 (snapshot)",
    ),
    "a report comes after the end": (
        "UPDATE reports SET n = 99 WHERE trial_id = 1 AND attempt = 2", "I3",
        "trial id 1 was over before its report of event 99",
    ),
    "an acknowledged report is gone": (
        "DELETE FROM reports WHERE trial_id = 3 AND seq = 1", "I4",
        "attempt 1 of trial id 3 has 1 reports, numbered up to 2",
    ),
    "a point is another": (
        "UPDATE reports SET points = '[]' WHERE trial_id = 3 AND seq = 1", "I4",
        "report 1 of attempt 1 of trial id 3 holds other points",
    ),
    "a trial has no number of its own": (
        "UPDATE trials SET number = 9 WHERE id = 4", "I7", "there are 4 numbered up to 9",
    ),
    "a counter is wrong": (
        "UPDATE studies SET running = 2, waiting = 0", "I7", "2 running, 0 waiting, 2 finished; there are",
    ),
    "an event is gone": (
        "DELETE FROM events WHERE n = 3", "I7", "its log has 17 entries with 17 numbers up to 18",
    ),
    "a number is given twice": (
        "UPDATE reports SET n = 2 WHERE trial_id = 3 AND seq = 2", "I7", "entries with",
    ),
    "an entry of the audit log is another": (
        "UPDATE audit SET subject = 'x' WHERE n = 1", "I11", "entry 1 of the audit log",
    ),
    "an attempt went on from another step": (
        "UPDATE attempts SET resume_step = 5 WHERE trial_id = 1 AND attempt = 2", "I9",
        "attempt 2 of trial id 1 went on from step 5, its snapshot is of step 1",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_what_was_changed_by_hand_is_named(lived: Bench, blobs: BlobStore, name: str) -> None:
    statement, invariant, said = CORRUPTIONS[name]
    by_hand(lived, statement)
    assert [s for i, s in found(lived, blobs) if i == invariant and said in s], found(lived, blobs)


def test_bytes_that_changed_or_went_are_named(lived: Bench, blobs: BlobStore) -> None:
    sha = {kind: hashlib.sha256(body).hexdigest() for kind, body in BYTES.items()}
    blobs.path(sha["snapshot"]).write_bytes(b"WEIGHTS")
    blobs.path(sha["log"]).write_bytes(b"epoch")
    blobs.path(sha["artifact"]).unlink()
    assert found(lived, blobs) == [
        ("I4", f"blob {sha['log']}: it has 5 bytes, the database says 8"),
        ("I4", f"blob {sha['artifact']}: its bytes cannot be read: No such file or directory"),
        ("I9", f"blob {sha['snapshot']}: its bytes hash to {hashlib.sha256(b'WEIGHTS').hexdigest()}"),
    ]


# --- a file that the disk has damaged -------------------------------------------------------------

on_sqlite = pytest.mark.parametrize("url", ["sqlite"], indirect=True)


def overwrite(bench: Bench, table: str | None, begin: int, size: int) -> None:
    """Other bytes in a table's first page, or in the file's head, once no connection has them in memory."""
    with bench.engine.connect() as conn:
        page = 1
        if table is not None:
            found = conn.exec_driver_sql("SELECT rootpage FROM sqlite_master WHERE name = ?", (table,))
            page = found.scalar_one()
        page_size = conn.exec_driver_sql("PRAGMA page_size").scalar_one()
    connection = bench.engine.raw_connection()
    connection.cursor().execute("PRAGMA wal_checkpoint(TRUNCATE)")
    connection.invalidate()
    bench.engine.dispose()
    path = db.sqlite_path(bench.engine)
    assert path is not None
    with path.open("r+b") as file:
        file.seek((page - 1) * page_size + begin)
        file.write(b"\xa5" * size)


@on_sqlite
@pytest.mark.parametrize("table", ["trials", "attempts", "events", "audit"])
def test_a_page_that_the_disk_has_damaged_is_all_that_is_said(
    lived: Bench, blobs: BlobStore, table: str
) -> None:
    overwrite(lived, table, 0, 4096)
    said = found(lived, blobs)
    assert said
    assert {invariant for invariant, _ in said} == {"file"}
    assert "damaged" in said[0][1] or "malformed" in said[0][1]


@on_sqlite
def test_a_damaged_head_of_the_file_is_a_finding(lived: Bench, blobs: BlobStore) -> None:
    overwrite(lived, None, 0, 100)
    ((invariant, said),) = found(lived, blobs)
    assert (invariant, said.partition(": ")[2]) == ("file", "file is not a database")


@on_sqlite
def test_a_row_that_is_no_json_any_more_is_a_finding(lived: Bench, blobs: BlobStore) -> None:
    by_hand(lived, "UPDATE events SET data = '{' WHERE kind = 'moved'")
    assert [s for i, s in found(lived, blobs) if i == "file" and "malformed JSON" in s]


@on_sqlite
def test_text_that_is_no_text_any_more_is_a_finding(lived: Bench, blobs: BlobStore) -> None:
    by_hand(lived, "UPDATE reports SET points = CAST(x'ff' AS TEXT) WHERE seq = 2")
    assert [s for i, s in found(lived, blobs) if i == "file" and "decode to UTF-8" in s]


def test_a_database_that_lacks_a_table_is_no_damaged_one(engine, blobs: BlobStore) -> None:
    """An older one, for instance."""
    with engine.begin() as conn:
        conn.exec_driver_sql("ALTER TABLE attempts RENAME TO tried")
    with pytest.raises((OperationalError, ProgrammingError), match="attempts"):
        integrity.examine(engine, blobs)
