"""What a worker needs beside training: from a claim to the first step, and from one trial to the next.

    python tests/benchmarks/worker_overhead.py [--trials 200] [--epochs 3] [--postgresql] [--json FILE]

`tunesmith serve`, and a worker with one slot that trains digits, one trial after another of a study whose
trials stand ready. `stamped_worker.py` writes down when it does what. Two spans count, of every trial but the
first few:

* claim: from the moment the claim was answered until the first optimizer step of that trial is done;
* between trials: from the end of a trial's last optimizer step until the next one's first step begins. In it
  are the last epoch's validation, the last report and the log, the finish with the next claim, each
  answered after it is on the disk, and all that is prepared for the new trial.

Printed: medians and 95th percentiles of both, and of the parts of the second. Exit code 1 if a median is
above its goal.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

TESTS = Path(__file__).parents[1]
sys.path[:0] = [str(TESTS), str(Path(__file__).parent)]

from processes import Process  # noqa: E402
from served import Serve, place  # noqa: E402

WARM_UP = 5  # trials
CLAIM, BETWEEN = "claim answered to first step done", "between trials: last step done to first step begun"
GOALS_MS = {CLAIM: 50.0, BETWEEN: 30.0}
PARTS = (
    ("validation of the last epoch", "point begins", "point ends"),
    ("the trainer ends, the supervisor hears it", "point ends", "end heard"),
    ("what is left to report, answered", "end heard", "finish sent"),
    ("finish, answered", "finish sent", "finish answered"),
    ("order, until the trainer has it", "claim answered", "order heard"),
    ("data, model, optimizer", "order heard", "training made"),
    ("until the first step", "training made", "step begins"),
)


class StampedWorker(Process):
    """One slot. `stamps`: seconds and events, in order."""

    def __init__(self, serve: Serve, home: Path) -> None:
        home.mkdir()
        program = Path(shutil.copy(Path(__file__).parent / "stamped_worker.py", home))
        self._file = home / "stamps"
        command = [sys.executable, str(program), "--url", serve.url, "--state", str(home / "state")]
        command += ["--cores", "1", "--tasks", str(program)]
        environ = {
            "TUNESMITH_TOKEN": serve.token("worker"),
            "CUDA_VISIBLE_DEVICES": "",
            "OMP_NUM_THREADS": "1",
        }
        super().__init__(command, environ=environ | {"STAMPS": str(self._file)})

    def stamps(self) -> list[tuple[float, str]]:
        lines = (line.split(" ", 1) for line in self._file.read_text().splitlines())
        return sorted((float(at), event) for at, event in lines)


def trials_of(stamps: Sequence[tuple[float, str]]) -> list[dict[str, float]]:
    """Of each trial when what happened: the first step, and the last of whatever comes again."""
    found: list[dict[str, float]] = []
    asked: dict[str, float] = {}
    for at, event in stamps:
        if event.startswith("claim"):
            asked[event] = at
        elif event == "attempt begins":
            found.append(dict(asked))
        elif found and not (event.startswith("step") and event in found[-1]):
            found[-1][event] = at
    return found


def spans(trials: Sequence[Mapping[str, float]]) -> dict[str, list[float]]:
    """In ms, of each trial with the one before it."""
    found: dict[str, list[float]] = {}
    for before, trial in zip(trials[WARM_UP:-1], trials[WARM_UP + 1 :], strict=True):
        at = {**before, **{event: trial[event] for event in trial if event in NEXT}}
        pairs = [
            (CLAIM, "claim answered", "step ends"),
            ("claim sent to first step done", "claim sent", "step ends"),
            (BETWEEN, "point begins", "step begins"),
            *PARTS,
        ]
        for name, begin, end in pairs:
            found.setdefault(name, []).append(1e3 * (at[end] - at[begin]))
    return found


NEXT = frozenset({"claim sent", "claim answered", "order heard", "training made", "step begins", "step ends"})
"""What a span reads of the later trial."""


def measure(serve: Serve, home: Path, trials: int, epochs: int) -> dict[str, list[float]]:
    stage = {"kind": "coarse_grid", "name": "by-hand", "epochs": epochs, "axes": {"lr": 2}}
    with serve.study(trials, task="digits", stages=[stage]), StampedWorker(serve, home) as worker:
        worker.says("event=attempt_ended", seconds=60 + trials, times=trials)
        return spans(trials_of(worker.stamps()))


def show(found: Mapping[str, Sequence[float]]) -> list[str]:
    """Returns: the goals that were missed."""
    table = Table("ms", "median", "95th percentile", "goal")
    for name, values in found.items():
        goal = f"{GOALS_MS[name]:g}" if name in GOALS_MS else ""
        median, late = statistics.median(values), statistics.quantiles(values, n=20)[-1]
        table.add_row(name, f"{median:.1f}", f"{late:.1f}", goal)
    Console(width=110).print(table)
    medians = {name: statistics.median(found[name]) for name in GOALS_MS}
    return [f"{name}: {medians[name]:.1f} ms" for name, goal in GOALS_MS.items() if medians[name] > goal]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--trials", type=int, default=200)
    parser.add_argument("--epochs", type=int, default=3, help="of each trial")
    parser.add_argument("--postgresql", action="store_true")
    parser.add_argument("--home", type=Path, help="where everything lies; default: a temporary directory")
    parser.add_argument("--json", type=Path, help="also write all figures here")
    options = parser.parse_args()
    with place(options.home, postgresql=options.postgresql) as (home, postgres):
        url = postgres.database("tunesmith") if postgres else ""
        with Serve(home / "serve", url) as serve:
            found = measure(serve, home / "worker", options.trials, options.epochs)
    if options.json is not None:
        options.json.write_text(json.dumps(found, indent=1) + "\n")
    sys.exit("\n".join(show(found)) or 0)


if __name__ == "__main__":
    main()
