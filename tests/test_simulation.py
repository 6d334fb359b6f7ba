"""Seeds of the simulation keep every promise, and a seed is played the same each time."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from databases import Databases
from simulation.loop import FILES_LEFT
from simulation.run import play

pytestmark = pytest.mark.filterwarnings(FILES_LEFT)
SEEDS = 200 if os.environ.get("CI") == "true" else 10
TESTS = Path(__file__).parent


@pytest.mark.parametrize("seed", range(SEEDS))
def test_a_seed_keeps_every_promise(databases: Databases, seed: int) -> None:
    outcome = play(seed, databases=databases)
    told = "\n".join(outcome.violations[:20])
    assert not outcome.violations, f"{told}\nTo play it again: make simulate SEED={seed}"


def test_the_seeds_meet_what_they_are_for(databases: Databases) -> None:
    counts: Counter[str] = Counter()
    for seed in range(10):
        counts += play(seed, databases=databases).counts
    for what in (
        "server kills",
        "worker kills",
        "maybe",
        "ended expired",
        "ended reboot",
        "refused lease_lost",
    ):
        assert counts[what], (what, counts)


def test_a_seed_is_played_the_same_each_time() -> None:
    """To the byte, in another process, whose sets are in another order."""
    command = [sys.executable, "-m", "simulation", "--seed", "3", "--trace", "--no-times"]
    runs = [
        subprocess.run(
            command, cwd=TESTS, env={**os.environ, "PYTHONHASHSEED": n}, capture_output=True, check=False
        )
        for n in ("1", "2")
    ]
    assert runs[0].returncode == 0, runs[0].stdout[-2000:] + runs[0].stderr[-2000:]
    assert len(runs[0].stdout) > 10_000
    assert runs[0].stdout == runs[1].stdout
