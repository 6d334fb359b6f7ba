"""The server's end of the planner process: asks it about studies, submits what it decides.

One task walks the studies whose logs have grown. For each it asks the process to read on and decide, submits
the commands that come back, and goes on to the next. Commands that change the log make the study due again,
so planning goes on until nothing is left to add.

Whatever goes wrong, the process is started again and reads from event 0. A study on which that happens
again and again comes last and ever more rarely, so that it stops no other.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import math
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import structlog
from sqlalchemy import Engine

from tunesmith_service import store
from tunesmith_service.commands import Command, EndStage, FailStage, Propose, Prune, Redraw
from tunesmith_service.errors import NoSpace, Refused
from tunesmith_service.writer import Writer

LOOK_EVERY_SECONDS = 1.0
"""Without a word from the writer, look for changes this often, such as other servers' writes; and for new
slots at most this often, since thousands of workers may beat."""

SPACING_SECONDS = 0.05
"""Looks are at least this far apart, however fast commits come."""

LINE_LIMIT = 64 * 2**20

NO_ROOM_REST_SECONDS = 5.0
"""A study whose trials found no room on the disk is planned again after this long, until they do."""

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
        self._looked_at = -math.inf  # on the loop's clock
        self._slots: list[store.SlotKind] = []
        self._slots_read_at = -math.inf  # on the loop's clock too
        self._known: set[int] = set()  # studies whose specification the process has
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
        await asyncio.sleep(self._looked_at + SPACING_SECONDS - asyncio.get_running_loop().time())
        self._wake.clear()
        self._looked_at = asyncio.get_running_loop().time()
        studies = await asyncio.to_thread(self._read_studies, self._looked_at)
        for gone in self._known - {s.id for s in studies}:
            await self._send({"study": gone, "forget": True})
            self._known.remove(gone)
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
            had_room = await self._plan(study)
        except Exception:
            times = self._trouble(study.id).times + 1
            rest = min(2.0 ** min(times - 1, 30) - 1, LONGEST_REST_SECONDS)
            self._troubles[study.id] = _Trouble(times, asyncio.get_running_loop().time() + rest)
            log.warning("planner.failed", study=study.id, times=times, rest_seconds=rest)
            raise
        self._troubles.pop(study.id, None)
        if not had_room:
            del self._asked[study.id]
            until = asyncio.get_running_loop().time() + NO_ROOM_REST_SECONDS
            self._troubles[study.id] = _Trouble(until=until)

    def _read_studies(self, now: float) -> list[store.PlannedStudy]:
        with self._engine.connect() as conn:
            if now >= self._slots_read_at + LOOK_EVERY_SECONDS:
                self._slots, self._slots_read_at = store.live_slots(conn), now
            return store.planned_studies(conn, self._slots)

    async def _plan(self, study: store.PlannedStudy) -> bool:
        """Let the process decide about one study, and submit what it says.

        Returns: whether there was room for all of it.
        """
        if study.id not in self._known:
            await self._send({"study": study.id, "spec": study.spec})
            self._known.add(study.id)
        await self._send({"study": study.id, "plan": study.slots})
        had_room = True
        while True:
            answer = await self._receive()
            self._asked[study.id] = (answer["at"], study.slots)
            had_room &= await self._submit(study.id, answer["commands"])
            if answer.get("more"):
                self._wake.set()  # its next part comes with the next round, after the other studies
            if answer["done"]:
                return had_room

    async def _submit(self, study_id: int, commands: list[dict[str, Any]]) -> bool:
        """Returns: whether there was room for all of it.

        Raises: what the writer does, but for refusals: what was refused did not fit a log that has
            grown since, and the study is planned again from that.
        """
        waiting = [self._writer.submit(_command(study_id, c)) for c in commands]
        outcomes = await asyncio.gather(*waiting, return_exceptions=True)
        for reason in {o.detail for o in outcomes if isinstance(o, Refused)}:
            log.warning("planner.refused", study=study_id, reason=reason)
        for outcome in outcomes:
            if isinstance(outcome, BaseException) and not isinstance(outcome, Refused):
                raise outcome
        return not any(isinstance(o, NoSpace) for o in outcomes)

    async def _start_process(self) -> None:
        self._known.clear()
        self._asked.clear()
        self._process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "tunesmith_service.planner",
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            limit=LINE_LIMIT,
        )
        await self._send({"database": self._engine.url.render_as_string(hide_password=False)})
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
