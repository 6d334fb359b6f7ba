"""The process that commits what the server's writer hands it, batch after batch.

A transaction lets go of the interpreter at each statement and each row, and beside a loop that answers
requests it waits for it each time: a batch that takes 4 ms alone took 20. So it has one of its own.
`WriterProcess` is the server's end; `packing` says what goes between the two.

It is a part of its server: it ends once the server has, whatever ended that, when it has written what it was
given. Until then it holds the lock of the database's file, so that no other server begins before.
"""

from __future__ import annotations

import gc
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import astuple, dataclass
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from typing import Literal

import structlog

from tunesmith_service import batches, db, logs
from tunesmith_service import commands as c
from tunesmith_service.batches import Batch
from tunesmith_service.bounds import Bounds
from tunesmith_service.commands import Command
from tunesmith_service.errors import FAULT, TunesmithError, Unavailable
from tunesmith_service.packing import packed, unpacked

END_SECONDS = 10.0
_BY_KEY = (
    c.Renew, c.Report, c.CommitSnapshot, c.AppendLog, c.CommitArtifact, c.Finish, c.Release,
    c.Prune, c.Propose, c.Redraw, c.Claim, c.Register,
)  # fmt: skip
"""Commands that only ever look for rows by their keys."""

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Setup:
    """What the process is told first; see `Writer`.

    Attributes:
        bounds: the arguments of `Bounds`.
    """

    url: str
    ttl_us: int
    bounds: Mapping[str, int]
    log_format: Literal["text", "json"]


class WriterProcess:
    """Args:
    held: descriptor of the file's lock, which the process holds too.
    """

    def __init__(self, setup: Setup, held: int | None = None) -> None:
        self._setup, self._held = setup, held
        self._process: subprocess.Popen[bytes] | None = None
        self._link: Connection | None = None

    def start(self) -> None:
        ours, theirs = Pipe()
        passed = [theirs.fileno(), *([] if self._held is None else [self._held])]
        command = [sys.executable, "-m", "tunesmith_service.writer_process", str(theirs.fileno())]
        self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL, pass_fds=passed, process_group=0)  # noqa: S603
        theirs.close()
        self._link = ours
        ours.send_bytes(packed(astuple(self._setup)))
        log.info("writer.started", pid=self._process.pid)

    @property
    def pid(self) -> int | None:
        return None if self._process is None else self._process.pid

    def commit(self, commands: Sequence[Command], now_us: int) -> Batch:
        """`batches.commit` there. Called by one thread at a time.

        Raises: Unavailable if the process ended meanwhile: the batch may have been written or not. The
            next one starts it anew.
        """
        try:
            if self._link is None:
                self.start()
            assert self._link is not None
            self._link.send_bytes(packed((list(commands), now_us)))
            outcomes, changed, moved, found_no_room = unpacked(self._link.recv_bytes())
        except (EOFError, OSError) as e:
            log.error("writer.lost", error=repr(e))
            self.stop()
            raise Unavailable("The server's writer ended; send the same request again.") from e
        return Batch(outcomes, set(changed), Counter(dict(moved)), found_no_room)

    def stop(self) -> None:
        """Let it end by itself; one that does not is killed."""
        process, link, self._process, self._link = self._process, self._link, None, None
        if link is not None:
            link.close()
        if process is not None:
            try:
                process.wait(END_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _told(batch: Batch) -> bytes:
    """Errors that are none of ours stay here, in the log."""
    outcomes = [
        TunesmithError(FAULT) if isinstance(o, Exception) and not isinstance(o, TunesmithError) else o
        for o in batch.outcomes
    ]
    return packed([outcomes, list(batch.changed), list(batch.moved.items()), batch.found_no_room])


def main() -> None:
    for told in (signal.SIGINT, signal.SIGTERM):  # where all processes are told, the server says when
        signal.signal(told, signal.SIG_IGN)
    link = Connection(int(sys.argv[1]))
    setup = Setup(*unpacked(link.recv_bytes()))
    logs.configure(setup.log_format)
    by_key, others = db.open_engine(setup.url, db.BY_KEY), db.open_engine(setup.url, db.PLANNED_ANEW)
    bounds = Bounds(**setup.bounds)
    gc.freeze()
    while True:
        try:
            commands, now_us = unpacked(link.recv_bytes())
        except (EOFError, OSError):
            return
        engine = by_key if all(isinstance(command, _BY_KEY) for command in commands) else others
        link.send_bytes(_told(batches.commit(engine, commands, now_us, setup.ttl_us, bounds)))


if __name__ == "__main__":
    main()
