"""The process that commits what the server's writer hands it, batch after batch.

A transaction lets go of the interpreter at each statement and each row, and beside a loop that answers
requests it waits for it each time: a batch that takes 4 ms alone took 20. So it has an interpreter of its own.
`WriterProcess` is the server's end; between the two go pickles, which come from nobody else.

It is a part of its server: it ends once the server has, whatever ended that, when it has written what it was
given. Until then it holds the lock of the database's file, so that no other server begins before.
"""

from __future__ import annotations

import gc
import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from typing import Literal

import structlog

from tunesmith_service import batches, db, logs
from tunesmith_service.batches import Batch
from tunesmith_service.bounds import Bounds
from tunesmith_service.commands import Command
from tunesmith_service.errors import TunesmithError, Unavailable

END_SECONDS = 10.0

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Setup:
    """What the process is told first; see `Writer`."""

    url: str
    ttl_us: int
    bounds: Bounds
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
        ours.send(self._setup)
        log.info("writer.started", pid=self._process.pid)

    def commit(self, commands: Sequence[Command], now_us: int) -> Batch:
        """`batches.commit` there. Called by one thread at a time.

        Raises: Unavailable if the process ended meanwhile: the batch may have been written or not. The
            next one starts it anew.
        """
        try:
            if self._link is None:
                self.start()
            assert self._link is not None
            self._link.send((commands, now_us))
            batch: Batch = self._link.recv()
        except (EOFError, OSError) as e:
            log.error("writer.lost", error=repr(e))
            self.stop()
            raise Unavailable("The server's writer ended; send the same request again.") from e
        return batch

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


def _told(batch: Batch) -> Batch:
    """The same without errors that only this process knows; they are in the log."""
    outcomes = [
        RuntimeError(repr(o)) if isinstance(o, Exception) and not isinstance(o, TunesmithError) else o
        for o in batch.outcomes
    ]
    return Batch(outcomes, batch.changed, batch.moved, batch.found_no_room)


def main() -> None:
    for ending in (
        signal.SIGINT,
        signal.SIGTERM,
    ):  # may be sent to all processes; ours goes on until the server ends
        signal.signal(ending, signal.SIG_IGN)
    link = Connection(int(sys.argv[1]))
    setup: Setup = link.recv()
    logs.configure(setup.log_format)
    engine = db.open_engine(setup.url)
    gc.freeze()
    while True:
        try:
            commands, now_us = link.recv()
        except (EOFError, OSError):
            return
        done = batches.commit(engine, commands, now_us, setup.ttl_us, setup.bounds)
        link.send(_told(done))


if __name__ == "__main__":
    main()
