"""A copy of everything that a server keeps, made while it serves, and a server made of such a copy.

A backup is a directory:
    manifest.json      what it holds, with hashes; written last, so a backup without it is not whole
    tunesmith.db       SQLite, as one transaction saw it
    database.dump      or PostgreSQL, by pg_dump in its custom format
    blobs/ab/abcd…     the bytes that rows of the database name, by their SHA-256; not of those in a bucket,
                       which is asked whether it has them
The database comes first. Bytes never change and are kept for a day after the last row that names them
has gone, so those that the copied rows name are still there when they are copied.

Tokens travel as hashes alone: a restored server makes a new operator's and a new worker's.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import sqlite3
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine, inspect, select, text
from sqlalchemy.engine import URL

from tunesmith_service import db, high_water, migrate, restoring, store
from tunesmith_service.blobs import BlobStore, place
from tunesmith_service.clock import wall_us
from tunesmith_service.retention import named_by_rows
from tunesmith_service.stores import Store
from tunesmith_service.tables import blobs

FORMAT = 1
MANIFEST = "manifest.json"
CHUNK = 2**20


class BackupError(RuntimeError):
    """A backup cannot be made or used; the message says why and what to do."""


@dataclass(frozen=True, slots=True)
class Manifest:
    """What a backup holds.

    Attributes:
        database: name of the file. sha256: of that file.
        made_us: when, in µs since 1970. incarnation: of the copied database.
        store: the bucket that holds the bytes; empty: the backup.
    """

    format: int
    version: str
    dialect: str
    database: str
    sha256: str
    made_us: int
    uuid: str
    incarnation: int
    blobs: int
    bytes: int
    store: str = ""


@dataclass(frozen=True, slots=True)
class Restored:
    """A home made of a backup."""

    manifest: Manifest
    incarnation: int


# --- making one -----------------------------------------------------------------------------------


def back_up(engine: Engine, bytes_in: Store, to: Path) -> Manifest:
    """Copy database and blobs into the new or empty directory `to`, beside a server or without one.

    Raises: BackupError, if a named blob is missing or its bytes are others than its name says, or if
        pg_dump fails.
    """
    _begin(to)
    is_sqlite = engine.dialect.name == "sqlite"
    name = "tunesmith.db" if is_sqlite else "database.dump"
    if is_sqlite:
        _copy_sqlite(Path(str(engine.url.database)), to / name)
        copied = db.open_engine(f"sqlite:///{to / name}")
        with copied.connect() as conn:
            told, named = store.instance(conn), _named(conn)
        copied.dispose()
    else:
        with _one_view(engine) as (conn, snapshot):
            told, named = store.instance(conn), _named(conn)
            _pg("pg_dump", engine.url, f"--snapshot={snapshot}", "--format=custom", "--no-owner",
                "--no-privileges", f"--file={to / name}")  # fmt: skip
    os.chmod(to / name, 0o600)
    if isinstance(bytes_in, BlobStore):
        for sha256 in named:
            _copy_blob(bytes_in.root, to / "blobs", sha256)
    else:
        _check_blobs(bytes_in, named)
    manifest = Manifest(
        FORMAT, version("tunesmith"), engine.dialect.name, name, _hash_of(to / name), wall_us(), told.uuid,
        told.incarnation, len(named), sum(named.values()), bytes_in.address,
    )  # fmt: skip
    _write_durably(to / MANIFEST, json.dumps(asdict(manifest), indent=1) + "\n")
    return manifest


def _begin(to: Path) -> None:
    to.mkdir(parents=True, exist_ok=True, mode=0o700)
    if any(to.iterdir()):
        raise BackupError(f"{to} holds something already; name a new directory")


def _copy_sqlite(source: Path, target: Path) -> None:
    """All pages in one step: what one reader of the write-ahead log sees, while others write on."""
    if not source.exists():
        raise BackupError(f"there is no database at {source}; name its home with --home")
    with (
        contextlib.closing(sqlite3.connect(f"file:{source}?mode=ro", uri=True)) as ours,
        contextlib.closing(sqlite3.connect(target)) as theirs,
    ):
        ours.backup(theirs)
        (said,) = theirs.execute("PRAGMA quick_check(1)").fetchone()
    if said != "ok":
        raise BackupError(f"SQLite finds fault with the copied database: {said}; look at the disk")
    _sync(target)


@contextlib.contextmanager
def _one_view(engine: Engine) -> Iterator[tuple[Connection, str]]:
    """A transaction of PostgreSQL that sees one state, and the name by which others see the same."""
    with engine.connect().execution_options(isolation_level="REPEATABLE READ") as conn, conn.begin():
        conn.execute(text("SET LOCAL statement_timeout = 0"))
        yield conn, str(conn.execute(text("SELECT pg_export_snapshot()")).scalar_one())


def _named(conn: Connection) -> Mapping[str, int]:
    """Blobs that rows name, with their sizes."""
    wanted = select(blobs.c.sha256, blobs.c.size).where(named_by_rows()).order_by(blobs.c.sha256)
    return {row.sha256: row.size for row in conn.execute(wanted)}


def _pg(program: str, url: URL, *arguments: str) -> None:
    """Run a tool of PostgreSQL. The password goes by the environment: others see arguments."""
    found = shutil.which(program)
    if found is None:
        raise BackupError(f"{program} is not installed here; install PostgreSQL's client programs")
    plain = url.set(drivername="postgresql", password=None).render_as_string(hide_password=False)
    secret = {"PGPASSWORD": str(url.password)} if url.password else {}
    done = subprocess.run(  # noqa: S603  (a fixed program, and arguments of ours)
        [found, f"--dbname={plain}", *arguments], env={**os.environ, **secret}, capture_output=True,
        text=True, check=False,
    )  # fmt: skip
    if done.returncode:
        raise BackupError(f"{program} failed: {done.stderr.strip() or done.returncode}")


def _copy_blob(source: Path, target: Path, sha256: str) -> None:
    """Copy bytes and check that they hash to their name."""
    path = place(target, sha256)
    path.parent.mkdir(parents=True, exist_ok=True)
    digest = hashlib.sha256()
    try:
        with place(source, sha256).open("rb") as ours, path.open("xb") as theirs:
            while chunk := ours.read(CHUNK):
                digest.update(chunk)
                theirs.write(chunk)
            theirs.flush()
            os.fsync(theirs.fileno())
    except FileNotFoundError:
        raise BackupError(
            f"the bytes of {sha256} are named by the database and are not in {source}"
        ) from None
    if digest.hexdigest() != sha256:
        raise BackupError(f"the bytes of {sha256} in {source} are damaged: they hash to something else")


def _check_blobs(bytes_in: Store, named: Mapping[str, int]) -> None:
    wrong = list(bytes_in.faults(named))
    if wrong:
        sha256, said = wrong[0]
        raise BackupError(
            f"{len(wrong)} of {len(named)} blobs that the database names are not as they were, such as "
            f"{sha256}: {said}; put them back from the bucket's older versions, or from a copy of it"
        )


def _hash_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sync(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())


def _write_durably(path: Path, said: str) -> None:
    with path.open("w", encoding="utf-8") as file:
        file.write(said)
        file.flush()
        os.fsync(file.fileno())


# --- making a server of one -----------------------------------------------------------------------


def restore(backup: Path, home: Path, url: str | URL = "", bytes_in: Store | None = None) -> Restored:
    """Make a home that has no database yet of a backup, bring it up to date, and begin a new incarnation.

    Args:
        url: of an empty PostgreSQL database, if the backup is of one.
        bytes_in: the store of the new home; None: its disk.
    Raises: BackupError. What was half made can be deleted and made again.
    """
    manifest = read_manifest(backup)
    _check_store(manifest, "" if bytes_in is None else bytes_in.address)
    if _hash_of(backup / manifest.database) != manifest.sha256:
        raise BackupError(f"{backup / manifest.database} is not what was backed up: its hash differs")
    home.mkdir(parents=True, exist_ok=True, mode=0o700)
    engine = _empty_engine(manifest, home, url)
    try:
        with contextlib.ExitStack() as held:
            if (path := db.sqlite_path(engine)) is not None:
                held.enter_context(db.hold(path))
            return _restore(manifest, backup, home, engine, bytes_in or BlobStore(home / "blobs"))
    finally:
        engine.dispose()


def _restore(manifest: Manifest, backup: Path, home: Path, engine: Engine, bytes_in: Store) -> Restored:
    before = high_water.read(home)
    above = max(manifest.incarnation, before.incarnation if before else 0)
    # From here on the copy counts as an old one: cut off half-way, it is not served by mistake.
    high_water.write(home, high_water.Mark(manifest.uuid, above + 1, 0))
    if manifest.dialect == "sqlite":
        path = Path(str(engine.url.database))
        shutil.copyfile(backup / manifest.database, path)
        os.chmod(path, 0o600)
        _sync(path)
    else:
        _pg("pg_restore", engine.url, "--no-owner", "--no-privileges", "--exit-on-error",
            "--single-transaction", str(backup / manifest.database))  # fmt: skip
    migrate.upgrade(engine)
    with engine.connect() as conn:
        named = _named(conn)
    if isinstance(bytes_in, BlobStore):
        for sha256 in named:
            if not bytes_in.path(sha256).exists():
                _copy_blob(backup / "blobs", bytes_in.root, sha256)
    else:
        _check_blobs(bytes_in, named)
    number = restoring.begin_incarnation(
        engine, wall_us(), above=above, how="tunesmith restore", copied_us=manifest.made_us
    )
    with engine.connect() as conn:
        high_water.write(home, high_water.of(store.instance(conn)))
    return Restored(manifest, number)


def _check_store(manifest: Manifest, address: str) -> None:
    if manifest.store and not address:
        raise BackupError(
            f"the bytes of this backup are in {manifest.store}, or in a copy of that; name it with "
            "--blob-store"
        )
    if address and not manifest.store:
        raise BackupError(
            "this backup holds its bytes itself; restore it without --blob-store, then copy blobs/ of the "
            "home into the bucket"
        )


def read_manifest(backup: Path) -> Manifest:
    """Raises: BackupError."""
    try:
        said: dict[str, Any] = json.loads((backup / MANIFEST).read_text(encoding="utf-8"))
        manifest = Manifest(**said)
    except (OSError, ValueError, TypeError) as e:
        raise BackupError(f"{backup} is no whole backup: its {MANIFEST} cannot be read ({e})") from e
    if manifest.format != FORMAT:
        raise BackupError(f"{backup} has format {manifest.format}, this version reads {FORMAT}")
    return manifest


def _empty_engine(manifest: Manifest, home: Path, url: str | URL) -> Engine:
    """Where to restore to. Raises BackupError if something is there, or it is of another kind."""
    if manifest.dialect == "sqlite":
        path = home / "tunesmith.db"
        if url:
            raise BackupError("this is a backup of SQLite; restore it without --database-url")
        if path.exists():
            raise BackupError(f"{path} is there already; name another --home, or move it away")
        return db.open_engine(f"sqlite:///{path}")
    if not url:
        raise BackupError("this is a backup of PostgreSQL; name an empty database with --database-url")
    engine = db.open_engine(url)
    if inspect(engine).get_table_names():
        engine.dispose()
        raise BackupError("the database of --database-url has tables already; name an empty one")
    return engine
