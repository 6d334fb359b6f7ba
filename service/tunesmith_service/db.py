"""Engines for SQLite and PostgreSQL, and each one's ground rules.

SQLite: one server process (`hold`), WAL with synchronous=FULL, BEGIN IMMEDIATE for transactions
that write, and a look at `in_transaction` before COMMIT, because SQLite may have rolled back by
itself and a COMMIT outside a transaction would then quietly succeed. PostgreSQL: psycopg 3,
`synchronous_commit=on`, statements end after 5 s. `check` refuses anything that is less durable.
"""

from __future__ import annotations

import contextlib
import fcntl
import functools
import json
import os
import sqlite3
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from select import POLLIN, poll
from typing import Any, TypeVar

from sqlalchemy import (
    JSON,
    BigInteger,
    Connection,
    Engine,
    FromClause,
    Select,
    String,
    bindparam,
    create_engine,
    event,
    func,
    make_url,
    select,
    text,
)
from sqlalchemy.dialects import postgresql
from sqlalchemy.engine import URL, Dialect, ExceptionContext
from sqlalchemy.exc import (
    ArgumentError,
    DBAPIError,
    InterfaceError,
    InvalidatePoolError,
    OperationalError,
)
from sqlalchemy.types import TypeEngine, to_instance

from tunesmith_service.clock import SECOND

T = TypeVar("T")

STATEMENT_TIMEOUT_MS = 5_000
LAST_WRITE_SECONDS = 10.0
ANSWER_SECONDS = 8.0
"""Whoever waits for a PostgreSQL that says nothing is told so after this long: a server that is frozen or
beyond a network that is cut ends no statement by itself."""
_DEAD_PEER = {
    "keepalives_idle": 5, "keepalives_interval": 2, "keepalives_count": 2, "tcp_user_timeout": 10_000,
}  # fmt: skip
"""The connections themselves are given up, so that new ones are made once the network is back."""


class WeakDurability(RuntimeError):
    """The database may forget what it has acknowledged; the service does not start on it."""


class AlreadyServed(RuntimeError):
    """Another process holds this SQLite file."""


class BadAddress(ValueError):
    """An address that no database of ours can have."""


class DriverMissing(RuntimeError):
    """What talks to this database is not installed."""


BY_KEY = ("enable_seqscan=off", "enable_hashjoin=off", "enable_mergejoin=off")
"""For statements that look rows up by keys: a plan that PostgreSQL made while a table was small, and keeps,
would read all of it once it is large."""
PLANNED_ANEW = ("plan_cache_mode=force_custom_plan",)
"""For all others: each time with the tables as they are."""


def open_engine(url: str | URL, settings: Sequence[str] = ()) -> Engine:
    """An engine for `sqlite:///path` or `postgresql://…`; `writing(engine)` is its writing side.

    Args:
        settings: of PostgreSQL's, such as BY_KEY.
    Raises: BadAddress, DriverMissing.
    """
    parsed = _parsed(url)
    if parsed.get_backend_name() == "sqlite":
        if parsed.database in (None, "", ":memory:"):
            raise BadAddress(
                f"SQLite needs a file that outlives a crash, got {url}; write sqlite:///path/to/file.db"
            )
        engine = create_engine(
            parsed.set(drivername="sqlite"), json_serializer=dumps, pool_size=5, max_overflow=10
        )
        event.listen(engine, "connect", _prepare_sqlite)
        event.listen(engine, "begin", _begin_sqlite)
        event.listen(engine, "commit", _check_transaction)
        return engine
    if parsed.get_backend_name() == "postgresql":
        return _of_postgresql(parsed, settings)
    raise BadAddress(
        f"the database is SQLite or PostgreSQL, got {parsed.get_backend_name()}; write "
        "postgresql+psycopg://user:password@host/database"
    )


def _of_postgresql(url: URL, settings: Sequence[str]) -> Engine:
    told = (f"statement_timeout={STATEMENT_TIMEOUT_MS}", "synchronous_commit=on", *settings)
    options = " ".join(f"-c {setting}" for setting in told)
    node = url.query.get("target_session_attrs", "read-write")  # the URL may ask for another
    try:
        engine = create_engine(
            url.set(drivername="postgresql+psycopg"),
            json_serializer=dumps,
            pool_size=5,
            max_overflow=10,
            pool_timeout=STATEMENT_TIMEOUT_MS / 1000,
            connect_args={
                "options": options, "connect_timeout": 3, "target_session_attrs": node, **_DEAD_PEER,
            },
        )  # fmt: skip
    except ImportError as e:
        said = str(e).partition("\n")[0]
        raise DriverMissing(f"PostgreSQL needs a package: {said}; pip install 'tunesmith[postgres]'") from e
    event.listen(engine, "checkout", _leave_what_was_closed)
    event.listen(engine, "handle_error", _leave_what_cannot_write)
    return engine


def _parsed(url: str | URL) -> URL:
    try:
        return make_url(url)
    except (ArgumentError, ValueError):  # the address is not repeated: it may hold a password
        raise BadAddress(
            "--database-url is no address of a database; write "
            "postgresql+psycopg://user:password@host:port/database, or nothing for SQLite in the home"
        ) from None


def _leave_what_was_closed(connection: Any, _record: object, _proxy: object) -> None:
    """PostgreSQL that says something on a connection at rest has closed it, as when it starts anew. Asking it
    each time would be one statement more for each transaction."""
    said = poll()
    said.register(connection.fileno(), POLLIN)
    if said.poll(0):
        raise InvalidatePoolError


def _leave_what_cannot_write(context: ExceptionContext) -> None:
    """After a failover the node at the other end may only read, so all connections are made anew."""
    if getattr(context.original_exception, "sqlstate", None) == _READ_ONLY:
        context.is_disconnect = True


def close(engine: Engine) -> None:
    """Close its connections; one that a thread still reads with as soon as it has done so."""
    event.listen(engine.pool, "checkin", _hang_up)  # `dispose` would leave it to the garbage collector
    engine.dispose()


def _hang_up(connection: Any, _record: object) -> None:
    if connection is not None:
        connection.close()


def writing(engine: Engine) -> Engine:
    """The same engine for transactions that write; on SQLite they take the write lock at BEGIN."""
    return engine.execution_options(writes=True)


def dumps(value: Any) -> str:
    """JSON as it is stored. A float that is not finite must have been spelled out before."""
    return _ENCODER.encode(value)


_ENCODER = json.JSONEncoder(allow_nan=False, separators=(",", ":"))


def _prepare_sqlite(connection: Any, _record: object) -> None:
    connection.isolation_level = None  # the driver shall not begin by itself; `_begin_sqlite` does
    for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON", "busy_timeout=5000"):
        connection.execute(f"PRAGMA {pragma}")


def _begin_sqlite(conn: Connection) -> None:
    writes = conn.get_execution_options().get("writes", False)
    conn.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")


def _check_transaction(conn: Connection) -> None:
    connection: Any = conn.connection.dbapi_connection
    if not connection.in_transaction:
        raise RuntimeError("SQLite ended the transaction by itself; nothing was committed")


def check(conn: Connection) -> None:
    """Refuse a database that may lose an acknowledged commit. Raises WeakDurability."""
    if conn.dialect.name == "sqlite":
        mode = conn.exec_driver_sql("PRAGMA journal_mode").scalar_one()
        level = conn.exec_driver_sql("PRAGMA synchronous").scalar_one()
        if mode != "wal" or level < 2:
            raise WeakDurability(
                f"SQLite must run with journal_mode=wal and synchronous=FULL (2), got {mode} and {level}; "
                "a network file system cannot, so put the file on a local disk"
            )
        return
    for name, wanted in (("synchronous_commit", ("on", "remote_apply")), ("fsync", ("on",))):
        got = conn.exec_driver_sql(f"SHOW {name}").scalar_one()
        if got not in wanted:
            raise WeakDurability(
                f"PostgreSQL must run with {name}=on, got {name}={got}; set it and start again"
            )


FULL = (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR_SHMSIZE)
"""What SQLite says when the disk has no room."""
_DISK_FULL, _READ_ONLY = "53100", "25006"  # PostgreSQL's sqlstates


def is_full(error: BaseException | None) -> bool:
    """Whether the database could not write because its disk has no room."""
    said = getattr(error, "orig", None)
    return getattr(said, "sqlite_errorcode", None) in FULL or getattr(said, "sqlstate", None) == _DISK_FULL


def is_away(error: DBAPIError) -> bool:
    """Whether it was not the statement's fault: the database does not answer, or this one cannot write."""
    return isinstance(error, (OperationalError, InterfaceError)) or error.connection_invalidated


def wall_us(engine: Engine) -> int:
    """PostgreSQL's own clock, which all servers on it share."""
    with engine.connect() as conn:
        return int(
            conn.execute(
                text("SELECT extract(epoch FROM clock_timestamp()) * :us"), {"us": SECOND}
            ).scalar_one()
        )


@contextlib.contextmanager
def hold(path: Path) -> Iterator[int]:
    """Keep every other process of ours off a SQLite file, by a lock on a file beside it, whose descriptor is
    given. The lock ends with the processes that hold it, however.

    Raises: AlreadyServed with the holder's process id.
    """
    lock = path.with_name(path.name + ".lock")
    lock.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        _lock(descriptor, path)
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
        yield descriptor
    finally:
        os.close(descriptor)


def _lock(descriptor: int, path: Path) -> None:
    """If its holder was killed, its writer still ends what it was given: wait for that."""
    until = time.monotonic() + LAST_WRITE_SECONDS
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            pid = os.pread(descriptor, 32, 0).decode().strip()
        if not pid.isdecimal() or _is_alive(int(pid)) or time.monotonic() > until:
            raise AlreadyServed(
                f"{path} is open in process {pid or 'unknown'}; SQLite serves one server: "
                "talk to that one, stop it first, or use PostgreSQL for several servers"
            )
        time.sleep(0.02)


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def sqlite_path(engine: Engine) -> Path | None:
    """The file to `hold`, or None for PostgreSQL."""
    return Path(str(engine.url.database)) if engine.dialect.name == "sqlite" else None


# --- rows as values ---------------------------------------------------------------------------------


def columns(kind: type[Any], table: FromClause) -> list[Any]:
    """The table's columns that a value of `kind` holds, by name."""
    return [table.c[f.name] for f in fields(kind) if f.name in table.c]


def values(
    conn: Connection, kind: type[T], statement: Select[Any], named: Mapping[str, Any] | None = None
) -> list[T]:
    """The rows, each as a value of `kind`; `named` are the statement's parameters."""
    return [kind(**row._mapping) for row in conn.execute(statement, named)]


# --- batches: many rows as one parameter ----------------------------------------------------------

Kind = TypeEngine[Any] | type[TypeEngine[Any]]


def batch(dialect: str, **columns: Kind) -> FromClause:
    """Rows that come as the one JSON parameter `batch` (see `rows`), to join in a statement whose
    text is the same however many there are. A JSON column is given as a string, so that it is stored
    as it was written. No floats: SQLite may round them while it reads JSON."""
    return _batch(dialect, tuple(columns.items()))


@functools.cache
def _batch(dialect: str, columns: tuple[tuple[str, Kind], ...]) -> FromClause:
    types = {name: to_instance(kind) for name, kind in columns}
    if dialect == "sqlite":
        each = func.json_each(bindparam("batch", type_=String)).table_valued("value", name="each_row")
        return select(
            *(
                func.json_extract(each.c.value, f"$.{name}", type_=kind).label(name)
                for name, kind in types.items()
            )
        ).subquery("batch")
    shown = ", ".join(f"CAST({n} AS json) AS {n}" if isinstance(k, JSON) else n for n, k in types.items())
    typed = ", ".join(f"{name} {_recorded(kind)}" for name, kind in types.items())
    records = text(f"SELECT {shown} FROM json_to_recordset(CAST(:batch AS json)) AS r({typed})")  # noqa: S608
    return records.bindparams(bindparam("batch", type_=String)).columns(**types).subquery("batch")


_POSTGRESQL: Dialect = postgresql.dialect()  # type: ignore[no-untyped-call]


def _recorded(kind: TypeEngine[Any]) -> str:
    """How PostgreSQL is told a column of a batch."""
    return "text" if isinstance(kind, JSON) else kind.compile(dialect=_POSTGRESQL)


def ids(dialect: str, kind: Kind = BigInteger) -> Select[Any]:
    """The column `id` of a `batch` that has no other, for an IN."""
    return select(batch(dialect, id=kind).c.id)


def rows(values: Iterable[Mapping[str, Any]]) -> str:
    """The parameter of a `batch`."""
    return dumps(list(values))
