"""Which signals hand a worker's trials back, by the names that people and batch systems know."""

from __future__ import annotations

import signal
from collections.abc import Mapping

SHUTDOWN = (signal.SIGTERM, signal.SIGINT)
USUAL = "SIGTERM,SIGINT,SIGUSR1"
_NEVER = {
    signal.SIGKILL, signal.SIGSTOP, signal.SIGCHLD, signal.SIGSEGV, signal.SIGFPE, signal.SIGILL,
    signal.SIGBUS,
}  # fmt: skip


def named(text: str) -> Mapping[signal.Signals, str]:
    """Signals by name, such as `SIGTERM,USR2`, each with the cause that a release then gives.

    Raises: ValueError for a name that is none, or of one that no process can answer.
    """
    found = {}
    for part in text.upper().split(","):
        name = part.strip()
        try:
            number = signal.Signals[name if name.startswith("SIG") else f"SIG{name}"]
        except KeyError:
            raise ValueError(f"{part.strip()!r} is no signal; write names such as {USUAL}") from None
        if number in _NEVER:
            raise ValueError(f"{number.name} cannot hand a trial back; write names such as {USUAL}")
        found[number] = "shutdown" if number in SHUTDOWN else "preempted"
    return found
