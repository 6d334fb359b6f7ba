"""The group commit: requests that arrive together commit together (rule 5).

`submit` puts a command in a bounded queue; one thread takes what has arrived, has it committed in one
transaction (`batches.commit`, in a process of its own where there is one) and answers on the event loop.
A 2xx therefore means committed. No failure ends the thread: whatever happens, each command gets an
outcome or an exception.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import structlog
from sqlalchemy import Engine

from tunesmith_service import batches, db
from tunesmith_service import commands as c
from tunesmith_service.bounds import Bounds
from tunesmith_service.clock import Clock
from tunesmith_service.commands import Command
from tunesmith_service.disk import Disk
from tunesmith_service.errors import Refused, TunesmithError, Unavailable
from tunesmith_service.tx import TTL_US
from tunesmith_service.writer_process import WriterProcess

log = structlog.get_logger(__name__)

MOST_AT_ONCE = 256
CAPACITY = 4096
RESERVED = CAPACITY // 4
"""Places that only these may take, so that overload never costs a lease."""
NEVER_SHED = (c.Renew, c.Finish, c.Release, c.Sweep, c.Grace)


@dataclass(frozen=True, slots=True)
class _Waiting:
    command: Command
    answer: asyncio.Future[Any]
    loop: asyncio.AbstractEventLoop


class Writer:
    """Args:
    engine: where to write.
    clock: read once a batch.
    ttl_us: how long leases live after each renewal.
    bounds: what rows may hold.
    disk: says what must wait for room, and makes some when the database cannot be written.
    process: commits in place of this one.
    on_batch: told of each batch in the writer's thread: its commands, what became of them, seconds.
    """

    def __init__(
        self,
        engine: Engine,
        clock: Clock,
        *,
        ttl_us: int = TTL_US,
        bounds: Bounds | None = None,
        disk: Disk | None = None,
        process: WriterProcess | None = None,
        on_batch: Callable[[Sequence[Command], batches.Batch, float], None] = lambda *_: None,
    ) -> None:
        self._engine, self._disk, self._process = engine, disk, process
        self._answer_seconds = None if engine.dialect.name == "sqlite" else db.ANSWER_SECONDS
        self._bounds = bounds or Bounds()
        self._on_batch = on_batch
        self._clock = clock
        self._ttl_us = ttl_us
        self._queue: deque[_Waiting] = deque()
        self._arrived = threading.Condition()
        self._closing = False
        self._thread: threading.Thread | None = None
        self._callbacks: list[Callable[[set[int]], None]] = []

    async def start(self) -> None:
        self._thread = threading.Thread(target=self._run, name="writer", daemon=True)
        self._thread.start()

    async def stop(self) -> None:
        """Commit what has been accepted, then end."""
        with self._arrived:
            self._closing = True
            self._arrived.notify()
        if self._thread is not None:
            await asyncio.to_thread(self._thread.join)

    def on_commit(self, callback: Callable[[set[int]], None]) -> None:
        """Call this on the event loop after each COMMIT with the studies whose log grew or whose
        trials changed."""
        self._callbacks.append(callback)

    @property
    def depth(self) -> int:
        """Commands that wait."""
        return len(self._queue)

    async def submit(self, command: Command) -> Any:
        """The command's outcome, once committed.

        Raises: the Refused that it was answered with; Unavailable when the database is away, the
            queue is full, or the writer stops. If the caller is cancelled, the command may still
            be committed.
        """
        if self._disk is not None:
            self._disk.admit(command)
        loop = asyncio.get_running_loop()
        waiting = _Waiting(command, loop.create_future(), loop)
        with self._arrived:
            if self._closing:
                raise Unavailable("The server is stopping; send the same request again in a moment.")
            room = CAPACITY if isinstance(command, NEVER_SHED) else CAPACITY - RESERVED
            if len(self._queue) >= room:
                raise Unavailable(
                    f"{len(self._queue)} writes wait already; send the same request again later."
                )
            self._queue.append(waiting)
            self._arrived.notify()
        try:
            if self._answer_seconds is None:
                outcome = await waiting.answer
            else:
                async with asyncio.timeout(self._answer_seconds):
                    outcome = await waiting.answer
        except TimeoutError:
            raise Unavailable("The database does not answer; send the same request again.") from None
        if isinstance(outcome, Refused):
            raise outcome
        return outcome

    # --- the thread -------------------------------------------------------------------------------

    def _run(self) -> None:
        while taken := self._take():
            self._write(taken)

    def _write(self, taken: list[_Waiting]) -> None:
        """Commit a batch and answer it, whatever happens."""
        commands, started = [w.command for w in taken], time.monotonic()
        try:
            batch = self._commit(commands)
        except BaseException as e:
            log.exception("writer.failed")
            told = e if isinstance(e, TunesmithError) else Unavailable("The write failed; send it again.")
            batch = batches.Batch([told] * len(taken))
        try:
            self._on_batch(commands, batch, time.monotonic() - started)
        except Exception:
            log.exception("writer.callback_failed")
        self._answer(taken, batch)

    def _commit(self, commands: list[Command]) -> batches.Batch:
        batch = self._try(commands)
        if batch.found_no_room and self._disk is not None and self._disk.give_up_ballast():
            batch = self._try(commands)
        return batch

    def _try(self, commands: list[Command]) -> batches.Batch:
        now_us = self._clock.now_us()
        if self._process is not None:
            return self._process.commit(commands, now_us)
        return batches.commit(self._engine, commands, now_us, self._ttl_us, self._bounds)

    def _take(self) -> list[_Waiting]:
        """Wait for work; empty once the writer shall end and nothing is left."""
        with self._arrived:
            self._arrived.wait_for(lambda: self._queue or self._closing)
            return [self._queue.popleft() for _ in range(min(len(self._queue), MOST_AT_ONCE))]

    def _answer(self, taken: list[_Waiting], batch: batches.Batch) -> None:
        for loop in {w.loop for w in taken}:
            theirs = [(w.answer, o) for w, o in zip(taken, batch.outcomes, strict=True) if w.loop is loop]
            try:
                loop.call_soon_threadsafe(self._deliver, theirs, batch.changed)
            except RuntimeError:
                log.warning("writer.nobody_listens", commands=len(theirs))  # the loop is closed

    def _deliver(self, answers: list[tuple[asyncio.Future[Any], Any]], changed: set[int]) -> None:
        for future, outcome in answers:
            if future.done():
                continue  # its waiter has gone
            if isinstance(outcome, Exception) and not isinstance(outcome, Refused):
                future.set_exception(outcome)
            else:
                future.set_result(outcome)
        for callback in self._callbacks if changed else ():
            try:
                callback(set(changed))
            except Exception:
                log.exception("writer.callback_failed")
