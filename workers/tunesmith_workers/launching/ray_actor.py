"""What Ray keeps running on a node: an actor, and beside it the process of its worker. No Ray needed here."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

from tunesmith_workers.launching.crew import Crew
from tunesmith_workers.state import StateInUseError, open_state

HANDING_BACK_SECONDS = 60.0
"""That the worker of an actor's last life may have this one's state; handing back takes 25."""
LOOK_SECONDS = 1.0
KILLED = 128
"""What a shell adds to the signal that ended a process."""


class WorkerKilledError(Exception):
    """It did not leave, so Ray shall start it again."""


class Worker:
    """The actor. `work` is asked for once, and again by Ray after each restart."""

    def __init__(self, name: str, crew: Crew, token: str) -> None:
        self._name, self._crew, self._token = name, crew, token

    def __repr__(self) -> str:  # what Ray calls it in logs
        return self._name

    def work(self) -> int:
        """Returns: the worker's exit code. Raises: WorkerKilledError."""
        self._wait_for_the_last_one()
        reading = _readable(self._token)
        told = self._crew.arguments(Path("/dev/fd", str(reading)))
        command = [sys.executable, "-m", "tunesmith_workers", "--name", self._name, *told]
        # A session of its own: where Ray ends an actor's whole process group, the worker still hands back.
        process = subprocess.Popen(  # noqa: S603
            ["sh", "-c", _GUARDED, "sh", *command],  # noqa: S607
            stdin=subprocess.PIPE, pass_fds=[reading], start_new_session=True,
        )  # fmt: skip
        os.close(reading)
        code = _ended(process)
        if code < 0 or code >= KILLED:
            raise WorkerKilledError(f"{self._name} was killed (exit code {code})")
        return code

    def _wait_for_the_last_one(self) -> None:
        """An actor's next life begins at once, and its last worker may still hand back on this machine."""
        deadline = time.monotonic() + HANDING_BACK_SECONDS
        while time.monotonic() < deadline:
            try:
                return open_state(None, self._name, os.environ).close()
            except StateInUseError:
                time.sleep(0.5)


def _readable(token: str) -> int:
    """A file descriptor that gives it once: neither arguments nor environment nor disk see it."""
    reading, writing = os.pipe()
    os.write(writing, token.encode())
    os.close(writing)
    high = fcntl.fcntl(reading, fcntl.F_DUPFD_CLOEXEC, 10)  # the shell below has those with one digit
    os.close(reading)
    return high


def _ended(process: subprocess.Popen[bytes]) -> int:
    """Its exit code. Ray misses a raylet that has ended only between an actor's tasks, so here we do."""
    raylet = os.getppid()
    while True:
        with suppress(subprocess.TimeoutExpired):
            return process.wait(LOOK_SECONDS)
        if os.getppid() != raylet:
            os._exit(1)  # the worker hands back, and Ray starts the actor on another node


_GUARDED = """\
exec 3<&0
"$@" 3<&- &
worker=$!
{ read -r _; kill "$worker"; } <&3 2> /dev/null &
guard=$!
wait "$worker"
code=$?
kill "$guard" 2> /dev/null
exit "$code"
"""
"""A worker, and a guard that tells it to hand back once its actor is gone, for standard input ends then.

Ray kills an actor's children with it; worker and guard are grandchildren. PR_SET_PDEATHSIG would not do: it
comes again for each of an actor's threads, and a worker that is told twice hands back without a snapshot.
"""
