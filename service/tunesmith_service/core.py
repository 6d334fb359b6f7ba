"""What a running server holds, and the order in which it starts and stops. `app` puts HTTP before it.

All of it is a cache over the database: a server may be killed at any line and started again.
"""

from __future__ import annotations

import asyncio
import contextvars
import math
import threading
import time
from collections.abc import Awaitable, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, suppress
from functools import partial
from typing import Concatenate, ParamSpec, TypeVar

import structlog
from sqlalchemy import Connection, Engine
from sqlalchemy.exc import DBAPIError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from tunesmith_service import (
    audit_store,
    db,
    high_water,
    migrate,
    overviews,
    restoring,
    session_store,
    store,
    trial_store,
)
from tunesmith_service.admission import CreateToken, TouchSessions, TouchTokens, TrimAudit
from tunesmith_service.audit import DAY_US
from tunesmith_service.blobs import BlobStore
from tunesmith_service.bounds import Bounds
from tunesmith_service.clock import SECOND, Clock, SystemClock, wall_us
from tunesmith_service.column_cache import ColumnCache
from tunesmith_service.column_files import ColumnFiles
from tunesmith_service.commands import ForgetBlobs, Grace
from tunesmith_service.disk import Disk
from tunesmith_service.errors import NotFound, Unavailable
from tunesmith_service.limits import Limiter, Rates, Uploads
from tunesmith_service.listeners import Listeners
from tunesmith_service.metrics import Metrics
from tunesmith_service.notifier import Notifier
from tunesmith_service.places import Places
from tunesmith_service.planner_link import PlannerLink
from tunesmith_service.security import DEFAULT_PROJECT, Credential, Gate, Role, Who, cookie_name
from tunesmith_service.settings import Settings
from tunesmith_service.snapshot_room import SnapshotRoom
from tunesmith_service.stores import ANSWER_SECONDS, KEPT_SECONDS, store_of
from tunesmith_service.sweeper import OUTAGE_SECONDS, Sweeper
from tunesmith_service.tokens import Token, write_private
from tunesmith_service.violations import Violations
from tunesmith_service.waiting_room import Demand, WaitingRoom
from tunesmith_service.writer import Writer
from tunesmith_service.writer_process import Setup, WriterProcess

P = ParamSpec("P")
T = TypeVar("T")

READ_AHEAD = 3
"""Studies, the largest ones, whose columns are read at the start."""

LOOKED_FOR = 3
"""Snapshots, the newest, whose bytes are looked for at the start."""

IDLE_MARGIN_US = 600 * SECOND
"""Rows of idle sessions stay this much longer: another server may know of a use that is not written yet."""

log = structlog.get_logger(__name__)


class Service:
    """A server's parts; all but `settings` and `blobs` are there once it has started.

    Args:
        writes_apart: in a process of its own.
    """

    engine: Engine
    instance: store.Instance
    clock: Clock
    columns: ColumnCache
    writer: Writer
    gate: Gate
    room: WaitingRoom
    sweeper: Sweeper
    snapshot_room: SnapshotRoom

    def __init__(self, settings: Settings, clock: Clock | None = None, *, writes_apart: bool = False) -> None:
        self.settings, self._writes_apart = settings, writes_apart
        self.disk = Disk(
            settings.home,
            reserve_bytes=settings.reserve_bytes,
            reserve_percent=settings.reserve_percent,
            ballast_bytes=settings.ballast_bytes if settings.is_sqlite else 0,
        )
        self.blobs = store_of(settings, self.disk.check)
        self.listeners = Listeners()
        self.metrics = Metrics()
        self.places = Places(settings.in_flight, settings.waiting, settings.waiting_seconds)
        self.rates = Rates(settings)
        self.uploads = Uploads(settings.uploads)
        self.login_tries = Limiter(burst=10, per_minute=6)  # by address
        self.report_bodies = Limiter(burst=20, per_minute=20)  # of violations, by address
        self.violations = Violations()
        self.planner: PlannerLink | None = None
        self._writing: WriterProcess | None = None
        self._given_clock = clock
        self._projects: dict[int, int] = {}  # trial id → project; neither ever changes
        self._answered_at = -math.inf  # when the database last did, of those who asked whether it does
        self._look: asyncio.Task[None] | None = None
        self._ending = AsyncExitStack()

    # --- start and stop ---------------------------------------------------------------------------

    async def start(self) -> None:
        """Raises: db.AlreadyServed, db.WeakDurability, high_water.OlderDatabaseError, StoreError, or what
        the database says."""
        try:
            await self._start()
        except BaseException:
            await self.stop()
            raise
        log.info("service.started", instance=self.instance.uuid, database=self.engine.dialect.name)

    async def stop(self) -> None:
        """The reverse of start; also of one that failed half-way."""
        await self._ending.aclose()

    def vouches(self, authorization: str) -> bool:
        """See `Gate.vouches`."""
        return self.gate.vouches(authorization)

    def close(self) -> None:
        """Answer all who wait, so that the server can stop."""
        self.room.close()
        self.listeners.close()

    async def _start(self) -> None:
        await asyncio.to_thread(self._open)
        self._assemble()
        self._first = self._threads(4, "first")  # see `read_first`
        self._for_bytes = self._threads(8, "bytes")  # see `stored`
        await self._run(self.writer)
        await self._grace()
        await self._mint()
        await self.know_tokens()
        if self.settings.planner:
            self.planner = PlannerLink(self.engine, self.writer)
            await self._run(self.planner)
        self.writer.on_commit(self._committed)
        await self._run(self.room)
        await self._run(self.sweeper)
        await self._run(self.notifier)
        ahead = asyncio.create_task(self._read_ahead(), name="read ahead")
        self._ending.callback(ahead.cancel)

    def _threads(self, most: int, name: str) -> ThreadPoolExecutor:
        made = ThreadPoolExecutor(most, thread_name_prefix=name)
        self._ending.callback(made.shutdown, cancel_futures=True)
        return made

    async def _run(self, part: Writer | PlannerLink | WaitingRoom | Sweeper | Notifier) -> None:
        await part.start()
        self._ending.push_async_callback(part.stop)

    def _open(self) -> None:
        self.settings.home.mkdir(parents=True, exist_ok=True, mode=0o700)
        self.disk.tend()
        self.engine = db.open_engine(self.settings.url)
        self._ending.callback(db.close, self.engine)
        path = db.sqlite_path(self.engine)
        held = None if path is None else self._ending.enter_context(db.hold(path))
        if self._writes_apart:
            setup = Setup(self.settings.url, self._ttl_us, self._bounds, self.settings.log_format)
            self._writing = WriterProcess(setup, held)
            self._ending.push_async_callback(asyncio.to_thread, self._writing.stop)
            self._writing.start()
        migrate.upgrade(self.engine)
        with self.engine.connect() as conn:
            db.check(conn)
            self.instance = store.instance(conn)
            schema = migrate.applied(conn)
        self.blobs.prepare(self.instance.uuid)
        self._look_for_bytes()
        self._check_age()
        self._database = f"{self.instance.uuid}.{self.instance.incarnation}.{schema}"
        wall = wall_us
        if self.engine.dialect.name == "postgresql":
            wall = partial(db.wall_us, self.engine)
        self.clock = self._given_clock or SystemClock(self.instance.clock_floor_us, wall)

    def _look_for_bytes(self) -> None:
        """Another store than before fails trials much later. Said, not refused: where the bytes are lost,
        all else is still to be served."""
        with self.engine.connect() as conn:
            newest = trial_store.newest_snapshots(conn, LOOKED_FOR)
        try:
            is_there = any(self.blobs.size(sha256) is not None for sha256 in newest)
        except (NotFound, Unavailable):  # a hash that is none, which `doctor` tells; a bucket that is away
            return
        if newest and not is_there:
            log.error(
                "blobs.missing",
                snapshots=newest,
                store=self.blobs.address or str(self.settings.blobs_dir),
                database=self.engine.url.render_as_string(hide_password=True),
                todo="give the --blob-store or the folder `blobs` that this database was served with, or "
                "put the bytes back; trials that go on from these snapshots fail",
            )

    def _check_age(self) -> None:
        """An older copy of what was served from here is served only as a restored one."""
        mark = high_water.read(self.settings.home)
        if mark is None or not high_water.is_behind(self.instance, mark):
            return
        if not self.settings.accept_restore:
            raise high_water.OlderDatabaseError(
                "the database is older than the one that was served from this home before; if it was put "
                "back from a backup, start with --accept-restore: what ran is handed back, old leases end"
            )
        number = restoring.begin_incarnation(
            self.engine, wall_us(), above=mark.incarnation, how="--accept-restore"
        )
        with self.engine.connect() as conn:
            self.instance = store.instance(conn)
        log.warning("database.restored", incarnation=number)

    def _assemble(self) -> None:
        settings = self.settings
        self.columns = ColumnCache(ColumnFiles(settings.home / "cache", self._database))
        self.writer = Writer(
            self.engine,
            self.clock,
            ttl_us=self._ttl_us,
            bounds=Bounds(**self._bounds),
            disk=self.disk,
            process=self._writing,
            on_batch=self.metrics.committed,
        )
        self.snapshot_room = SnapshotRoom(settings.project_snapshots_bytes, self.read)
        idle_us = int(settings.session_idle_seconds * SECOND)
        self.gate = Gate(self._find_token, self._find_session, self.clock.now_us, idle_us)
        is_secure = settings.tls_cert is not None or settings.behind_proxy
        self.gate.cookie = cookie_name(self.instance.uuid, is_secure=is_secure, prefix=settings.prefix)
        self.room = WaitingRoom(self.writer.submit, self._demand, self.clock.now_us)
        self.notifier = Notifier(
            settings, submit=self.writer.submit, read=self.read, now_us=self.clock.now_us
        )
        self.sweeper = Sweeper(
            submit=self.writer.submit,
            run_out=self._run_out,
            resync=self._resync,
            tend=self._tend,
            note_use=self._note_use,
            collect=self._collect,
            ttl_seconds=settings.ttl_seconds,
            sweep_seconds=settings.sweep_seconds,
            collect_seconds=settings.collect_seconds,
        )

    async def _grace(self) -> None:
        """Our own outage ends no lease: what ran when we went down gets the time that we were away."""
        away_us = max(0, self.clock.now_us() - self.instance.last_tick_us)
        if away_us > OUTAGE_SECONDS * SECOND or self.settings.is_sqlite:
            await self.writer.submit(Grace(outage_us=away_us + self._ttl_us // 3))

    @property
    def _bounds(self) -> Mapping[str, int]:
        s = self.settings
        return {"metrics": s.study_metrics, "points": s.trial_points, "queued": s.project_queued}

    @property
    def _ttl_us(self) -> int:
        return int(self.settings.ttl_seconds * SECOND)

    async def _mint(self) -> None:
        """The first start makes an operator's token and a worker's, each in a file of mode 0600."""
        for role, path in (
            (Role.OPERATOR, self.settings.operator_token_file),
            (Role.WORKER, self.settings.worker_token_file),
        ):
            if not await self._works(await asyncio.to_thread(Token.in_file, path)):
                token = Token.mint()
                project = None if role is Role.OPERATOR else DEFAULT_PROJECT
                await self.writer.submit(
                    CreateToken(
                        project, f"first {role}", role, token.key_id, token.secret_hash, None, "start"
                    )
                )
                await asyncio.to_thread(write_private, path, token.reveal())
                log.info("token.minted", role=str(role), key_id=token.key_id, file=str(path))

    async def _works(self, token: Token | None) -> bool:
        """Whether this database knows the token."""
        known = await self._find_token(token.key_id) if token else None
        if token is None or known is None or known.revoked:
            return False
        return known.secret_hash == token.secret_hash

    def _committed(self, study_ids: set[int]) -> None:
        self.room.changed(study_ids)
        self.listeners.changed(study_ids)
        if self.planner is not None:
            self.planner.changed(study_ids)

    # --- reads ------------------------------------------------------------------------------------

    async def read(
        self, query: Callable[Concatenate[Connection, P], T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """Run a query of `store` in a thread. Raises Unavailable when the database is away."""
        return await self._read(None, query, *args, **kwargs)

    async def read_first(
        self, query: Callable[Concatenate[Connection, P], T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """The same in threads that pages have not: for the short queries that stand before a worker's
        request, whose lease must not wait until charts are drawn."""
        return await self._read(self._first, query, *args, **kwargs)

    async def _read(
        self,
        threads: ThreadPoolExecutor | None,
        query: Callable[Concatenate[Connection, P], T],
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> T:
        def run() -> T:
            with self.engine.connect() as conn:
                return query(conn, *args, **kwargs)

        try:
            loop, context = asyncio.get_running_loop(), contextvars.copy_context()
            async with asyncio.timeout(None if self.settings.is_sqlite else db.ANSWER_SECONDS):
                return await loop.run_in_executor(threads, context.run, run)
        except (OperationalError, PoolTimeout, TimeoutError) as e:
            raise Unavailable("the database does not answer; try again in a moment") from e
        except DBAPIError as e:
            if e.connection_invalidated:
                raise Unavailable("the connection to the database broke; try again in a moment") from e
            raise

    async def stored(self, call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Ask the store of bytes, in threads of its own: while it is away, the database is read all the same.
        Raises: what the store raises; Unavailable when it takes too long."""
        return await self.in_time(self._in_thread(call, *args, **kwargs))

    async def in_time(self, answer: Awaitable[T]) -> T:
        """What the store answers. A disk may take its time, as when it makes bytes durable.
        Raises: Unavailable when a bucket takes too long."""
        try:
            async with asyncio.timeout(None if isinstance(self.blobs, BlobStore) else ANSWER_SECONDS):
                return await answer
        except TimeoutError:
            log.error("store.away", store=self.blobs.address, error=f"no answer in {ANSWER_SECONDS:g} s")
            raise Unavailable("the store of snapshots does not answer; try again in a moment") from None

    def _in_thread(self, call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> asyncio.Future[T]:
        run = partial(contextvars.copy_context().run, call, *args, **kwargs)
        return asyncio.get_running_loop().run_in_executor(self._for_bytes, run)

    async def _read_ahead(self) -> None:
        """The columns of what people watch, for the first to look after a start would wait for them."""
        with suppress(Unavailable):
            for study_id in await self.read(overviews.largest_active, limit=READ_AHEAD):
                await self.read(self.columns.get, study_id)

    async def project_of_trial(self, trial_id: int) -> int | None:
        """The project that a trial belongs to, by its id."""
        if trial_id not in self._projects:
            project_id = await self.read_first(trial_store.project_of_trial, trial_id)
            if project_id is None:
                return None
            self.remember_trial(trial_id, project_id)
        return self._projects[trial_id]

    def forget_study(self, study_id: int) -> None:
        """One that was deleted: SQLite may give its ids, and its trials', to others."""
        self.columns.forget(study_id)
        self._projects.clear()

    def remember_trial(self, trial_id: int, project_id: int) -> None:
        if len(self._projects) > 100_000:
            self._projects.clear()
        self._projects[trial_id] = project_id

    async def problems(self) -> Mapping[str, str]:
        """What keeps this server from being ready, by part; empty if nothing does."""
        found: dict[str, str] = {}
        try:
            async with asyncio.timeout(2):
                await self._database_answers()
        except (Unavailable, TimeoutError):
            found["database"] = "does not answer"
        if (age := self.sweeper.age_seconds) > 10:
            found["sweeper"] = f"last good tick {age:.0f} s ago"
        if self.settings.planner and (self.planner is None or not self.planner.is_alive):
            found["planner"] = "not running"
        return found

    async def _database_answers(self) -> None:
        """However many ask, it is asked once, and not again within a second of a good answer."""
        if time.monotonic() - self._answered_at < 1:
            return
        if self._look is None or self._look.done():
            self._look = asyncio.create_task(self._ask_database(), name="readiness")
            self._look.add_done_callback(lambda look: look.cancelled() or look.exception())
        await asyncio.shield(self._look)

    async def _ask_database(self) -> None:
        await self.read_first(store.instance)
        self._answered_at = time.monotonic()

    async def know_tokens(self) -> None:
        """Tell the gate which tokens there are; again once a minute."""
        self.gate.know(await self.read_first(store.live_tokens, self.clock.now_us()))

    async def _find_token(self, key_id: str) -> Credential | None:
        row = await self.read_first(store.token_by_key, key_id)
        return _credential(row) if row else None

    async def _find_session(self, session_hash: str) -> Credential | None:
        row = await self.read_first(session_store.behind, bytes.fromhex(session_hash))
        if row is None:
            return None
        who = Who(row.id, row.key_id, row.name, Role(row.role), row.project_id, session=row.key)
        return Credential(who, row.session_hash, row.expires_us, row.revoked_us is not None, row.last_seen_us)

    async def _demand(self) -> Mapping[int, Demand]:
        return {
            s.id: Demand(s.project_id, s.waiting, s.running, s.max_concurrent)
            for s in await self.read(store.demand)
        }

    def _resync(self) -> int:
        return self.clock.resync() if isinstance(self.clock, SystemClock) else 0

    async def _run_out(self) -> list[int]:
        return await self.read(trial_store.run_out, self.clock.now_us())

    async def _tend(self) -> None:
        """After each round of the sweeper: how far the database has come, and room on the disk."""
        high_water.write(self.settings.home, high_water.of(await self.read(store.instance)))
        await asyncio.to_thread(self.disk.tend)

    async def _note_use(self) -> None:
        """Write down when tokens and sessions were last used, and who was refused."""
        used, seen = dict(self.gate.used), dict(self.gate.seen)
        self.gate.used.clear()
        self.gate.seen.clear()
        await self.know_tokens()
        if used:
            await self.writer.submit(TouchTokens(used))
        if seen:
            idle_us = int(self.settings.session_idle_seconds * SECOND)
            await self.writer.submit(TouchSessions(seen, self.clock.now_us() - idle_us - IDLE_MARGIN_US))
        for refusal in self.gate.refusals.due():
            await self.writer.submit(refusal)

    async def _collect(self) -> None:
        grace = self.settings.blob_grace_seconds
        await self.writer.submit(ForgetBlobs(older_than_us=self.clock.now_us() - int(grace * SECOND)))
        await self._trim_audit()
        stop = threading.Event()  # the thread does not hear that we are cancelled
        try:
            age = min(grace, KEPT_SECONDS)
            deleted = await self._in_thread(
                self.blobs.collect, self._named_blobs, older_than_seconds=age, is_stopped=stop.is_set
            )
        finally:
            stop.set()
        if deleted:
            log.info("blobs.collected", deleted=deleted)

    async def _trim_audit(self) -> None:
        """What is too old goes; the chain's head goes into the log, which is kept elsewhere."""
        days_us = int(self.settings.audit_days * DAY_US)
        await self.writer.submit(TrimAudit(older_than_us=self.clock.now_us() - days_us))
        head = (await self.read(audit_store.ends)).head
        log.info("audit.head", n=head.n, hash=head.hash)

    def _named_blobs(self, hashes: list[str]) -> set[str]:
        with self.engine.connect() as conn:
            return trial_store.named_blobs(conn, hashes)


def _credential(row: store.TokenRow) -> Credential:
    return Credential(
        who=Who(row.id, row.key_id, row.name, Role(row.role), row.project_id),
        secret_hash=bytes(row.secret_hash),
        expires_us=row.expires_us,
        revoked=row.revoked_us is not None,
    )
