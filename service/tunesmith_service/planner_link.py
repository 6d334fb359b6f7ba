"""The server's end of the planner process: feeds it logs, submits what it decides.

One task walks the studies whose logs have grown. For each it sends what the process has not seen of
the log, asks it to decide, submits the commands that come back, and goes on to the next. Commands that
change the log make the study due again, so planning goes on until nothing is left to add.

Whatever goes wrong, the process is started again and fed from event 0. A study on which that happens
again and again comes last and ever more rarely, so that it stops no other.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import structlog
from sqlalchemy import Engine

from tunesmith_service import event_log, store
from tunesmith_service.commands import Command, EndStage, FailStage, Propose, Prune, Redraw
from tunesmith_service.errors import Refused
from tunesmith_service.writer import Writer

LOOK_EVERY_SECONDS = 1.0
"""Without a word from the writer, look for changes this often: new slots, other servers' writes."""

CHUNK = 5_000
"""Log entries in one message to the process."""

LINE_LIMIT = 64 * 2**20

LONGEST_REST_SECONDS = 300.0
"""A study on which the process fails each time is tried again after 0, 1, 3, 7, … s, at most this."""

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class _Trouble:
    """A study on which planning has failed.

    Attributes:
        times: in a row.
        until: when to try again, on the loop's clock.
    """

    times: int = 0
    until: float = 0.0


class PlannerLink:
    """Keeps a planner process and speaks with it. Everything it holds is a cache."""

    def __init__(self, engine: Engine, writer: Writer) -> None:
        self._engine = engine
        self._writer = writer
        self._process: asyncio.subprocess.Process | None = None
        self._task: asyncio.Task[None] | None = None
        self._wake = asyncio.Event()
        self._sent: dict[int, int] = {}  # study → newest event that the process has seen
        self._asked: dict[int, tuple[int, int]] = {}  # study → (event, slots) it last decided about
        self._troubles: dict[int, _Trouble] = {}

    @property
    def is_alive(self) -> bool:
        return self._process is not None and self._process.returncode is None

    async def start(self) -> None:
        self._task = asyncio.create_task(self._run(), name="planner link")

    async def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
        await self._end_process()

    def changed(self, study_ids: Iterable[int]) -> None:
        """These studies' logs have grown. Called on the event loop after a commit."""
        self._wake.set()

    async def _run(self) -> None:
        while True:
            try:
                await self._round()
            except Exception:
                log.exception("planner.restart")
                await self._end_process()
                await asyncio.sleep(LOOK_EVERY_SECONDS)

    async def _round(self) -> None:
        if not self.is_alive:
            await self._start_process()
        with contextlib.suppress(TimeoutError):  # not wait_for: in Python 3.11 it may swallow a cancellation
            async with asyncio.timeout(LOOK_EVERY_SECONDS):
                await self._wake.wait()
        self._wake.clear()
        studies = await asyncio.to_thread(self._read_studies)
        for gone in self._sent.keys() - {s.id for s in studies}:
            await self._send({"study": gone, "forget": True})
            del self._sent[gone]
            self._asked.pop(gone, None)
            self._troubles.pop(gone, None)
        now = asyncio.get_running_loop().time()
        for study in sorted(studies, key=lambda s: self._trouble(s.id).times):
            is_new = self._asked.get(study.id) != (study.event_n, study.slots)
            if is_new and now >= self._trouble(study.id).until:
                await self._try_to_plan(study)

    def _trouble(self, study_id: int) -> _Trouble:
        return self._troubles.get(study_id, _Trouble())

    async def _try_to_plan(self, study: store.PlannedStudy) -> None:
        try:
            await self._plan(study)
        except Exception:
            times = self._trouble(study.id).times + 1
            rest = min(2.0 ** min(times - 1, 30) - 1, LONGEST_REST_SECONDS)
            self._troubles[study.id] = _Trouble(times, asyncio.get_running_loop().time() + rest)
            log.warning("planner.failed", study=study.id, times=times, rest_seconds=rest)
            raise
        self._troubles.pop(study.id, None)

    def _read_studies(self) -> list[store.PlannedStudy]:
        with self._engine.connect() as conn:
            return store.planned_studies(conn)

    async def _plan(self, study: store.PlannedStudy) -> None:
        """Bring the process up to date with one study, let it decide, and submit what it says."""
        if study.id not in self._sent:
            await self._send({"study": study.id, "spec": study.spec})
            self._sent[study.id] = 0
        while entries := await asyncio.to_thread(self._read_log, study.id, self._sent[study.id]):
            await self._send({"study": study.id, "entries": entries})
            self._sent[study.id] = entries[-1][0]
            if len(entries) < CHUNK:
                break
        await self._send({"study": study.id, "plan": study.slots})
        self._asked[study.id] = (self._sent[study.id], study.slots)
        while True:
            answer = await self._receive()
            await self._submit(study.id, answer["commands"])
            if answer["done"]:
                return

    def _read_log(self, study_id: int, after: int) -> list[list[Any]]:
        with self._engine.connect() as conn:
            entries = event_log.entries_since(conn, study_id, after, limit=CHUNK)
        return [[e.n, e.kind, e.trial, e.stage, e.data] for e in entries]

    async def _submit(self, study_id: int, commands: list[dict[str, Any]]) -> None:
        """Raises: what the writer does, but for refusals: what was refused did not fit a log that has
        grown since, and the study is planned again from that."""
        waiting = [self._writer.submit(_command(study_id, c)) for c in commands]
        for outcome in await asyncio.gather(*waiting, return_exceptions=True):
            if isinstance(outcome, Refused):
                log.warning("planner.refused", study=study_id, reason=outcome.detail)
            elif isinstance(outcome, BaseException):
                raise outcome

    async def _start_process(self) -> None:
        self._sent.clear()
        self._asked.clear()
        self._process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "tunesmith_service.planner",
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            limit=LINE_LIMIT,
        )
        self._wake.set()
        log.info("planner.started", pid=self._process.pid)

    async def _end_process(self) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        if process.stdin is not None:
            process.stdin.close()
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()

    async def _send(self, message: Mapping[str, Any]) -> None:
        assert self._process is not None
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(message, allow_nan=False).encode() + b"\n")
        await self._process.stdin.drain()

    async def _receive(self) -> dict[str, Any]:
        assert self._process is not None
        assert self._process.stdout is not None
        line = await self._process.stdout.readline()
        if not line:
            raise EOFError("the planner process ended")
        answer: dict[str, Any] = json.loads(line)
        return answer


_KINDS: Mapping[str, type[Propose | Redraw | Prune | EndStage | FailStage]] = {
    "propose": Propose,
    "redraw": Redraw,
    "prune": Prune,
    "end_stage": EndStage,
    "fail_stage": FailStage,
}


def _command(study_id: int, said: Mapping[str, Any]) -> Command:
    fields = {k: v for k, v in said.items() if k != "do"}
    return _KINDS[said["do"]](study_id=study_id, **fields)
