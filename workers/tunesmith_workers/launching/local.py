"""On this machine: the slots of all workers in one, for one process a machine is enough."""

from __future__ import annotations

import os
import sys
from typing import NoReturn

from tunesmith_workers.launching.crew import Crew


def command(crew: Crew) -> list[str]:
    """What to run."""
    return [
        sys.executable, "-m", "tunesmith_workers", "--name", crew.name, *crew.arguments(workers=crew.count),
    ]  # fmt: skip


def launch(crew: Crew) -> NoReturn:
    """Become that worker: signals, output and exit code are its own."""
    made = command(crew)
    os.execv(made[0], made)  # noqa: S606
