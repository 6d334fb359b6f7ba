"""The supervisor's handle on a slot with several devices: one trainer child for each, started by torchrun.

It is to an attempt what a single child is. Rank 0 speaks for all; of the others it is heard that one failed,
or that it is gone. Either ends the attempt at once: what is left of a gang cannot go on, and torchrun would
take half a minute to say so, for its children ignore the signal that it ends them with. No torch here.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self, TypeAlias

from tunesmith_workers import messages
from tunesmith_workers.child_process import (
    EXIT_SECONDS,
    LINE_BYTES,
    START_SECONDS,
    ChildProcess,
    ChildStartError,
    Death,
)

REASON_SECONDS = 2.0  # from one rank's word that it lost another to why: the other's word, or its end
SETTLE_SECONDS = 5.0  # from the leader's last word about a trial to the others'

Link: TypeAlias = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class GangProcess(ChildProcess):
    """Children that have said they are ready; the process of the base is torchrun's."""

    def __init__(self, process: asyncio.subprocess.Process, writers: list[asyncio.StreamWriter]) -> None:
        super().__init__(process)
        self._writers = writers  # of all who have come, ready or not
        self._links: dict[int, Link] = {}  # by rank
        self._pids: dict[int, int] = {}  # of those that live
        self._listening: list[asyncio.Task[None]] = []
        self._heard: asyncio.Queue[tuple[int, dict[str, Any] | None]] = asyncio.Queue()
        self._order = 0  # trials begun
        self._busy: set[int] = set()  # who has not said the last word about the newest trial
        self._settled = asyncio.Event()
        self._broken = False

    @classmethod
    async def start_gang(cls, ranks: int, arguments: Sequence[str], environ: Mapping[str, str]) -> Self:
        """Start `ranks` children and wait until all are ready.

        Raises: ChildStartError with their own words.
        """
        meeting = Path(tempfile.mkdtemp(prefix="tunesmith-"))  # a socket's path must be short
        arrived: asyncio.Queue[tuple[dict[str, Any] | None, Link]] = asyncio.Queue()
        writers: list[asyncio.StreamWriter] = []

        async def meet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writers.append(writer)
            arrived.put_nowait((await _heard(reader), (reader, writer)))

        path = str(meeting / "socket")
        server = await asyncio.start_unix_server(meet, path, limit=LINE_BYTES)
        command = [sys.executable, "-P", "-m", "tunesmith_workers.torchrun", str(ranks), "--connect", path]
        try:
            process = await asyncio.create_subprocess_exec(
                *command, *arguments, env=_environment(environ), process_group=0,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
            )  # fmt: skip
            return await cls(process, writers)._met(ranks, arrived)
        finally:
            server.close()
            shutil.rmtree(meeting, ignore_errors=True)

    async def _met(self, ranks: int, arrived: asyncio.Queue[tuple[dict[str, Any] | None, Link]]) -> Self:
        async def meet_all() -> None:
            while len(self._links) < ranks:
                said, link = await arrived.get()
                if said is None:
                    raise EOFError
                self._links[said["rank"]], self._pids[said["rank"]] = link, said["pid"]
                self._is_ready(said)

        meeting = asyncio.create_task(meet_all())
        try:
            await asyncio.wait(
                {meeting, self._reaping}, timeout=START_SECONDS, return_when=asyncio.FIRST_COMPLETED
            )
        except asyncio.CancelledError:
            meeting.cancel()
            await self.kill()
            raise
        if not meeting.done() or meeting.exception() is not None:
            meeting.cancel()
            death = await self.kill()
            raise ChildStartError(_once(death.tail).strip() or str(death))
        self._listening = [asyncio.create_task(self._listen(rank)) for rank in self._links]
        return self

    # --- what is said ---

    @property
    def is_alive(self) -> bool:
        return super().is_alive and not self._broken

    async def say(self, message: Mapping[str, Any]) -> None:
        """An order goes to the ranks that it is for, a wish to the leader, who tells the others."""
        to = {0}
        if message["do"] == "run":
            self._order += 1
            message = {**message, "order": self._order}
            to = set(range(min(messages.ranks(message["work"]), len(self._links))))
            self._busy = set(to)
            self._settled.clear()
        for rank in to:
            _, writer = self._links[rank]
            with contextlib.suppress(ConnectionError):
                writer.write(messages.encode(message))
                await writer.drain()

    async def next(self) -> dict[str, Any] | Death:
        rank, said = await self._heard.get()
        if said is not None and _lost_another(said):
            rank, said = await self._better_reason(rank, said)
        if said is None:
            death = await self.kill()
            return Death(death.code, death.tail, f"rank {rank} of {len(self._links)} of the trainer is gone")
        if said.get("say") == "ended" and said.get("state") != "failed":
            await self._settle()
        return said

    async def _better_reason(self, rank: int, said: dict[str, Any]) -> tuple[int, dict[str, Any] | None]:
        """Why one rank misses another: what that one says, or that it is gone."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(REASON_SECONDS):
                while True:
                    other, heard = await self._heard.get()
                    if heard is None or (heard.get("say") == "ended" and not _lost_another(heard)):
                        return other, heard
        return rank, said

    async def _settle(self) -> None:
        """Followers that do not end with their leader would miss the next trial's beginning."""
        try:
            await asyncio.wait_for(self._settled.wait(), SETTLE_SECONDS)
        except TimeoutError:
            self._broken = True

    async def _listen(self, rank: int) -> None:
        """Pass on what the leader says, and of the others that they fail in the middle of a trial."""
        reader, _ = self._links[rank]
        while (said := await _heard(reader)) is not None:
            is_last = said.get("say") == "ended"
            in_trial = 0 in self._busy
            if is_last:
                self._busy.discard(rank)
                if not self._busy - {0}:
                    self._settled.set()
            if rank == 0 or (in_trial and said.get("state") == "failed"):
                self._heard.put_nowait((rank, said))
            elif said.get("state") == "failed":
                self._broken = True
        self._broken = True
        self._end_session(rank)
        self._heard.put_nowait((rank, None))

    # --- its end ---

    def _signal_group(self) -> None:
        super()._signal_group()
        for rank in list(self._pids):
            self._end_session(rank)

    def _end_session(self, rank: int) -> None:
        """Each rank leads a session of its own, with its data loaders."""
        pid = self._pids.pop(rank, None)
        if pid is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(pid, signal.SIGKILL)

    async def _hang_up(self) -> None:
        """Once all are gone, and their devices free."""
        if self._listening:
            await asyncio.wait(self._listening, timeout=EXIT_SECONDS)
        for writer in self._writers:
            writer.close()


async def _heard(reader: asyncio.StreamReader) -> dict[str, Any] | None:
    """The next message, None at the end; what cannot be read is passed on as no message of ours."""
    try:
        line = await reader.readline()
        return messages.decode(line) if line.endswith(b"\n") else None
    except ConnectionError:
        return None
    except ValueError as e:
        return {"say": f"something unreadable: {e}"}


def _lost_another(said: Mapping[str, Any]) -> bool:
    return (said.get("error") or {}).get("kind") == messages.RANK_LOST


def _once(text: str) -> str:
    """Lines that every rank says, said once."""
    return "".join(dict.fromkeys(text.splitlines(keepends=True)))


def _environment(environ: Mapping[str, str]) -> dict[str, str]:
    """torchrun starts Python without `-P`; all ranks are on this machine, whatever its name resolves to."""
    ours = {"GLOO_SOCKET_IFNAME": "lo"} if sys.platform == "linux" else {}
    return ours | dict(environ) | {"PYTHONSAFEPATH": "1"}
