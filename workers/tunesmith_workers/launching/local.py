"""On this machine: the slots of all workers in one, for one process a machine is enough."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from typing import NoReturn

from tunesmith_workers.devices import discover
from tunesmith_workers.launching.crew import Crew, LaunchError


def command(crew: Crew, environ: Mapping[str, str]) -> list[str]:
    """What to run. Raises: LaunchError if this machine has fewer GPUs."""
    return [
        sys.executable, "-m", "tunesmith_workers", "--name", crew.name, *crew.arguments(workers=crew.count),
        *_gpus(crew, environ),
    ]  # fmt: skip


def _gpus(crew: Crew, environ: Mapping[str, str]) -> list[str]:
    """No scheduler says here which are the workers' own, so these are the first."""
    if not (asked := crew.count * crew.gpus):
        return []
    found = [d.visible for d in discover(environ) if d.visible is not None]
    if len(found) < asked:
        raise LaunchError(
            f"{crew.count} workers of {crew.slots} slots with {crew.gpus_per_slot} GPUs need {asked}, and "
            f"this machine shows {len(found)} (nvidia-smi, CUDA_VISIBLE_DEVICES)"
        )
    return ["--devices", ",".join(found[:asked])]


def launch(crew: Crew) -> NoReturn:
    """Become that worker: signals, output and exit code are its own. Raises: LaunchError."""
    made = command(crew, os.environ)
    os.execv(made[0], made)  # noqa: S606
