"""What a running server holds, and the order in which it starts and stops. `app` puts HTTP before it.

All of it is a cache over the database: a server may be killed at any line and started again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path
from typing import Concatenate, ParamSpec, TypeVar

import structlog
from sqlalchemy import Connection, Engine
from sqlalchemy.exc import DBAPIError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from tunesmith_service import db, migrate, store, trial_store
from tunesmith_service.blobs import BlobStore
from tunesmith_service.clock import SECOND, Clock, SystemClock, wall_us
from tunesmith_service.commands import CreateToken, ForgetBlobs, Grace
from tunesmith_service.errors import Unavailable
from tunesmith_service.listeners import Listeners
from tunesmith_service.planner_link import PlannerLink
from tunesmith_service.security import DEFAULT_PROJECT, Credential, Gate, Role, Who
from tunesmith_service.settings import Settings
from tunesmith_service.sweeper import OUTAGE_SECONDS, Sweeper
from tunesmith_service.tokens import Token, write_private
from tunesmith_service.waiting_room import Demand, WaitingRoom
from tunesmith_service.writer import Writer

P = ParamSpec("P")
T = TypeVar("T")

log = structlog.get_logger(__name__)


class Service:
    """A server's parts; all but `settings` and `blobs` are there once it has started."""

    engine: Engine
    instance: store.Instance
    clock: Clock
    writer: Writer
    gate: Gate
    room: WaitingRoom
    sweeper: Sweeper

    def __init__(self, settings: Settings, clock: Clock | None = None) -> None:
        self.settings = settings
        self.blobs = BlobStore(settings.blobs_dir, reserve_bytes=settings.reserve_bytes)
        self.listeners = Listeners()
        self.planner: PlannerLink | None = None
        self._given_clock = clock
        self._projects: dict[int, int] = {}  # trial id → project; neither ever changes
        self._ending = AsyncExitStack()

    # --- start and stop ---------------------------------------------------------------------------

    async def start(self) -> None:
        """Raises: db.AlreadyServed, db.WeakDurability, or what the database says."""
        try:
            await self._start()
        except BaseException:
            await self.stop()
            raise
        log.info("service.started", instance=self.instance.uuid, database=self.engine.dialect.name)

    async def stop(self) -> None:
        """The reverse of start; also of one that failed half-way."""
        await self._ending.aclose()

    def close(self) -> None:
        """Answer all who wait, so that the server can stop."""
        self.room.close()
        self.listeners.close()

    async def _start(self) -> None:
        await asyncio.to_thread(self._open)
        self._assemble()
        await self._run(self.writer)
        await self._grace()
        await self._mint()
        if self.settings.planner:
            self.planner = PlannerLink(self.engine, self.writer)
            await self._run(self.planner)
        self.writer.on_commit(self._committed)
        await self._run(self.room)
        await self._run(self.sweeper)

    async def _run(self, part: Writer | PlannerLink | WaitingRoom | Sweeper) -> None:
        await part.start()
        self._ending.push_async_callback(part.stop)

    def _open(self) -> None:
        self.settings.home.mkdir(parents=True, exist_ok=True, mode=0o700)
        self.blobs.prepare()
        self.engine = db.open_engine(self.settings.url)
        self._ending.callback(self.engine.dispose)
        if (path := db.sqlite_path(self.engine)) is not None:
            self._ending.enter_context(db.hold(path))
        migrate.upgrade(self.engine)
        with self.engine.connect() as conn:
            db.check(conn)
            self.instance = store.instance(conn)
        wall = wall_us
        if self.engine.dialect.name == "postgresql":
            wall = partial(db.wall_us, self.engine)
        self.clock = self._given_clock or SystemClock(self.instance.clock_floor_us, wall)

    def _assemble(self) -> None:
        settings = self.settings
        self.writer = Writer(self.engine, self.clock, ttl_us=self._ttl_us)
        self.gate = Gate(self._find_token, self._find_session, self.clock.now_us)
        prefix = "__Host-" if settings.tls_cert or settings.behind_proxy else ""
        self.gate.cookie = f"{prefix}tunesmith-{self.instance.uuid[:12]}"
        self.room = WaitingRoom(self.writer.submit, self._demand, self.clock.now_us)
        self.sweeper = Sweeper(
            self.writer.submit,
            self._resync,
            self.gate.used,
            self._collect,
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
    def _ttl_us(self) -> int:
        return int(self.settings.ttl_seconds * SECOND)

    async def _mint(self) -> None:
        """The first start makes an operator's token and a worker's, each in a file of mode 0600."""
        for role, path in (
            (Role.OPERATOR, self.settings.operator_token_file),
            (Role.WORKER, self.settings.worker_token_file),
        ):
            if not await self._works(await asyncio.to_thread(_token_in, path)):
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

        def run() -> T:
            with self.engine.connect() as conn:
                return query(conn, *args, **kwargs)

        try:
            return await asyncio.to_thread(run)
        except (OperationalError, PoolTimeout) as e:
            raise Unavailable("the database does not answer; try again in a moment") from e
        except DBAPIError as e:
            if e.connection_invalidated:
                raise Unavailable("the connection to the database broke; try again in a moment") from e
            raise

    async def project_of_trial(self, trial_id: int) -> int | None:
        """The project that a trial belongs to, by its id."""
        if trial_id not in self._projects:
            project_id = await self.read(trial_store.project_of_trial, trial_id)
            if project_id is None:
                return None
            self.remember_trial(trial_id, project_id)
        return self._projects[trial_id]

    def remember_trial(self, trial_id: int, project_id: int) -> None:
        if len(self._projects) > 100_000:
            self._projects.clear()
        self._projects[trial_id] = project_id

    async def problems(self) -> Mapping[str, str]:
        """What keeps this server from being ready, by part; empty if nothing does."""
        found: dict[str, str] = {}
        try:
            async with asyncio.timeout(2):
                await self.read(store.instance)
        except (Unavailable, TimeoutError):
            found["database"] = "does not answer"
        if (age := self.sweeper.age_seconds) > 10:
            found["sweeper"] = f"last good tick {age:.0f} s ago"
        if self.settings.planner and (self.planner is None or not self.planner.is_alive):
            found["planner"] = "not running"
        return found

    async def _find_token(self, key_id: str) -> Credential | None:
        row = await self.read(store.token_by_key, key_id)
        return _credential(row) if row else None

    async def _find_session(self, session_hash: str) -> Credential | None:
        row = await self.read(store.session_token, bytes.fromhex(session_hash))
        return _credential(row) if row else None

    async def _demand(self) -> Mapping[int, Demand]:
        return {
            s.id: Demand(s.project_id, s.waiting, s.running, s.max_concurrent)
            for s in await self.read(store.demand)
        }

    def _resync(self) -> int:
        return self.clock.resync() if isinstance(self.clock, SystemClock) else 0

    async def _collect(self) -> None:
        grace = self.settings.blob_grace_seconds
        await self.writer.submit(ForgetBlobs(older_than_us=self.clock.now_us() - int(grace * SECOND)))
        deleted = await asyncio.to_thread(
            self.blobs.collect, self._named_blobs, older_than_seconds=min(grace, 86_400.0)
        )
        if deleted:
            log.info("blobs.collected", deleted=deleted)

    def _named_blobs(self, hashes: list[str]) -> set[str]:
        with self.engine.connect() as conn:
            return trial_store.named_blobs(conn, hashes)


def _token_in(path: Path) -> Token | None:
    try:
        return Token.read(path.read_text(encoding="utf-8").strip())
    except FileNotFoundError:
        return None


def _credential(row: store.TokenRow) -> Credential:
    return Credential(
        who=Who(row.id, row.key_id, row.name, Role(row.role), row.project_id),
        secret_hash=bytes(row.secret_hash),
        expires_us=row.expires_us,
        revoked=row.revoked_us is not None,
    )
