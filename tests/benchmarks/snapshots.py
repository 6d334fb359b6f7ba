"""Saving, uploading and restoring a snapshot of 500 MB, beside copying a file of that size and hashing it.

    python tests/benchmarks/snapshots.py [--rounds 5] [--megabytes 500]

One `tunesmith serve` on SQLite, and in each round a new `tunesmith worker` with one core, on this machine
and its disk. Its trainer trains a small model that carries 500 MB of frozen weights, and saves. While the
worker uploads that snapshot, training goes on. Then the trainer is killed, and another goes on from the
snapshot. Before that, in each round, a file of the same size is copied (read, written in pieces of 1 MiB,
fsync) and its copy is hashed (SHA-256). It is copied again at once, into memory that the first copy has just
left: that is quicker where a virtual machine gives its free memory back to the host, and no step of a
snapshot finds its memory so; so this is only told.

Measured: save, from calling `trial.snapshot` until it returns; upload, from there until the worker says that
the service has committed it; restore, from the worker's claim until the model has its weights, without the
seconds in which the model was built. Printed: the speed of each and of all three together; most memory that
server, supervisor and trainer took beyond what they had; and how long steps took without and during the
upload. Exit code 1 if a goal is missed.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import signal
import statistics
import sys
import time
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

TESTS = Path(__file__).parents[1]
sys.path[:0] = [str(TESTS), str(Path(__file__).parent)]

from processes import Worker, until  # noqa: E402
from served import SPACE, Serve, place  # noqa: E402

PIECE_BYTES = 2**20
STEPS, RATIO = 3, 0.6
LONGEST_STEP_MS = 250
MOST_MEGABYTES = {"server": 50, "supervisor": 50}
NAMED = {
    "yardstick": "copy and hash", "quick_yardstick": "the same once more", "chain": "all three",
    "saving": "trainer that saves", "restoring": "trainer that restores, model included",
    "restored": "the same once it has restored",
}  # fmt: skip


@dataclass(frozen=True)
class Round:
    """Of one snapshot.

    Attributes:
        save, upload, restore, copy, hash, again: seconds.
        server, supervisor: most memory in MB beyond what each had before there was a trial.
        saving: the same of the trainer, beyond what it had before it saved.
        restoring, restored: of the trainer that restores, most and then, beyond what a trainer has that is
            ready; its model is in that.
        quiet, uploading: seconds of each step, without and during the upload.
    """

    save: float
    upload: float
    restore: float
    copy: float
    hash: float
    again: float
    server: float
    supervisor: float
    saving: float
    restoring: float
    restored: float
    quiet: list[float]
    uploading: list[float]

    @property
    def chain(self) -> float:
        return self.save + self.upload + self.restore

    @property
    def yardstick(self) -> float:
        return self.copy + self.hash

    @property
    def quick_yardstick(self) -> float:
        return self.again + self.hash


class Memory:
    """Resident memory of a process, in MB beyond what it has now."""

    def __init__(self, pid: int) -> None:
        self._proc = Path(f"/proc/{pid}")
        (self._proc / "clear_refs").write_text("5")  # its most begins anew
        self._before = self._megabytes("VmRSS:")

    def most(self) -> float:
        return self._megabytes("VmHWM:") - self._before

    def now(self) -> float:
        return self._megabytes("VmRSS:") - self._before

    def _megabytes(self, name: str) -> float:
        lines = (self._proc / "status").read_text().splitlines()
        return next(int(line.split()[1]) * 1024 / 1e6 for line in lines if line.startswith(name))


def one_round(serve: Serve, home: Path, megabytes: int, file: Path) -> Round:
    home.mkdir()
    task = Path(shutil.copy(Path(__file__).with_name("snapshot_task.py"), home / "task.py"))
    with Worker(serve.url, serve.token("worker"), home / "state", "--tasks", str(task)) as worker:
        worker.says("event=registered", seconds=60)
        copied, again = (copy(file, home / "copy") for _ in range(2))
        server, supervisor = Memory(serve.pid), Memory(worker.pid)
        begin(serve, home.name, megabytes)
        committed = said_at(worker.says("event=snapshot_committed", seconds=120))
        (home / "uploaded").touch()
        first = told(home / "attempt-1.json")
        os.kill(worker.child_pid(), signal.SIGKILL)
        trainer = Memory(worker.child_pid(times=2))
        claimed = said_at(worker.says("event=claimed", times=2, seconds=60))
        second = told(home / "attempt-2.json")
        found = Round(
            save=first["saved"] - first["saving"],
            upload=committed - first["saved"],
            restore=second["entered"] - claimed + second["restored"] - second["restoring"],
            copy=copied[0], hash=copied[1], again=again[0],
            server=server.most(), supervisor=supervisor.most(), saving=first["held"],
            restoring=trainer.most(), restored=trainer.now(),
            quiet=first["quiet"], uploading=first["uploading"],
        )  # fmt: skip
        (home / "measured").touch()
        worker.says("event=attempt_ended", "state=complete", seconds=60)
        return found


def begin(serve: Serve, name: str, megabytes: int) -> None:
    """A study of one trial."""
    spec = {
        "name": name, "task": "large", "space": SPACE, "fixed": {"megabytes": megabytes},
        "stages": [{"kind": "coarse_grid", "epochs": 2, "axes": {"lr": [0.01]}}],
    }  # fmt: skip
    with serve.people() as people:
        people.post("studies", json=spec)


def said_at(line: str) -> float:
    """When the worker said this, in seconds since 1970."""
    stamp = next(part for part in line.split() if part.startswith("timestamp="))
    return datetime.fromisoformat(stamp.removeprefix("timestamp=")).timestamp()


def told(path: Path) -> dict[str, Any]:
    until(path.exists, seconds=120)
    found: dict[str, Any] = json.loads(path.read_text())
    return found


def copy(source: Path, target: Path) -> tuple[float, float]:
    """Returns: seconds of copying, and of hashing the copy."""
    began = time.perf_counter()
    with source.open("rb") as theirs, target.open("xb") as ours:
        while piece := theirs.read(PIECE_BYTES):
            ours.write(piece)
        ours.flush()
        os.fsync(ours.fileno())
    copied = time.perf_counter()
    with target.open("rb") as file:
        hashlib.file_digest(file, "sha256")
    hashed = time.perf_counter()
    target.unlink()
    return copied - began, hashed - copied


def show(rounds: list[Round], megabytes: int) -> list[str]:
    """Returns: what missed a goal."""
    console = Console(width=110)
    table = Table("", "seconds, median", "lowest to highest", "MB/s", "over copying and hashing")
    for name in ("copy", "hash", "yardstick", "quick_yardstick", "save", "upload", "restore", "chain"):
        seconds = [getattr(one, name) for one in rounds]
        median = statistics.median(seconds)
        between = f"{min(seconds):.2f} to {max(seconds):.2f}"
        over = f"{ratio(rounds, 1, 'yardstick', name):.2f}"
        table.add_row(NAMED.get(name, name), f"{median:.2f}", between, f"{megabytes / median:,.0f}", over)
    console.print(table)
    reached = ratio(rounds, STEPS, "yardstick", "chain")
    console.print(
        f"speed of all three over that of copying and hashing once for each of them: {reached:.2f} "
        f"(goal: at least {RATIO:g}; {ratio(rounds, STEPS, 'quick_yardstick', 'chain'):.2f} over copies into "
        "memory just left)"
    )
    missed = [f"speed: {reached:.2f}"] if reached < RATIO else []
    return missed + show_memory(console, rounds) + show_steps(console, rounds)


def ratio(rounds: list[Round], times: int, theirs: str, ours: str) -> float:
    return statistics.median(times * getattr(one, theirs) / getattr(one, ours) for one in rounds)


def show_memory(console: Console, rounds: list[Round]) -> list[str]:
    missed = []
    for name in ("server", "supervisor", "saving", "restoring", "restored"):
        most = max(getattr(one, name) for one in rounds)
        bound = MOST_MEGABYTES.get(name)
        goal = f" (goal: at most {bound})" if bound else ""
        console.print(f"memory beyond what it had, {NAMED.get(name, name)}: {most:.0f} MB{goal}")
        missed += [f"{name}: {most:.0f} MB"] if bound and most > bound else []
    return missed


def show_steps(console: Console, rounds: list[Round]) -> list[str]:
    quiet = [1000 * seconds for one in rounds for seconds in one.quiet]
    uploading = [1000 * seconds for one in rounds for seconds in one.uploading]
    for said, steps in (("alone", quiet), ("during the upload", uploading)):
        console.print(
            f"steps of training {said}: {len(steps):,}, {1000 / statistics.mean(steps):,.0f} a second, "
            f"median {statistics.median(steps):.2f} ms, longest {max(steps):.0f} ms"
        )
    pace, longest = statistics.mean(quiet) / statistics.mean(uploading), max(uploading)
    console.print(
        f"steps a second during the upload over alone: {pace:.2f}; server, supervisor and trainer share "
        f"{os.cpu_count()} cores; none may take {LONGEST_STEP_MS} ms"
    )
    return [f"a step of {longest:.0f} ms during the upload"] if longest >= LONGEST_STEP_MS else []


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--megabytes", type=int, default=500)
    parser.add_argument("--home", type=Path, help="where everything lies; default: a temporary directory")
    parser.add_argument("--json", type=Path, help="also write all figures here")
    options = parser.parse_args()
    rounds = []
    with place(options.home, postgresql=False) as (home, _), Serve(home / "home") as serve:
        file = home / "file"
        file.write_bytes(os.urandom(options.megabytes * 1_000_000))
        for number in range(1, options.rounds + 1):
            rounds.append(one_round(serve, home / f"round-{number}", options.megabytes, file))
            figures = {name: round(n, 2) for name, n in asdict(rounds[-1]).items() if isinstance(n, float)}
            print(f"round {number}: {figures}", file=sys.stderr, flush=True)
    missed = show(rounds, options.megabytes)
    if options.json:
        options.json.write_text(json.dumps([asdict(one) for one in rounds], indent=1) + "\n")
    sys.exit("\n".join(missed) or 0)


if __name__ == "__main__":
    main()
