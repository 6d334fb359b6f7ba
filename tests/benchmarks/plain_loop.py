"""How fast the built-in trainer is beside the plainest PyTorch loop of the same work and Lightning.

    python tests/benchmarks/plain_loop.py [--rounds 10] [--data DIR] [--only NAME …] [--json FILE]

An MLP and a CNN on digits; with --data, which holds mnist10k.npz, a CNN on 6,000 images of MNIST too. Whole
trainings from the building of the model on, by SGD with momentum, on one thread: the three take turns, each
in a warm process of its own (`trainings.py`), new ones in each round, as where its memory lies makes one
process faster than its like by some percent. The same work is the same initial weights, the same samples in
the same order, an optimizer step each, a validation pass each epoch, and the mean losses of both, which are
compared: if they differ, the work did. What the built-in trainer finds besides (accuracies, noise, norm of
the gradient, rates and times) is in its time and in nobody else's. Lightning gets whole batches, as no
DataLoader of single samples would be as fast; it logs nothing, shows no progress and keeps no checkpoint.

Printed: epochs a second of CPU time, which others on the machine disturb less, and the median ratio of a
round with where it lies with 95 % certainty. Exit code 1 if the built-in trainer takes more than 1.05 times
as long as the loop, or longer than Lightning.

Lightning is left out where it is not installed. It can lie beside everything else:

    pip install --no-deps --target DIR lightning pytorch-lightning lightning-utilities torchmetrics tqdm
    PYTHONPATH=DIR python tests/benchmarks/plain_loop.py
"""

from __future__ import annotations

import argparse
import importlib.util
import math
import sys
from collections import defaultdict
from collections.abc import Mapping
from contextlib import ExitStack, closing
from pathlib import Path

from interleaved import Goal, report, take_turns
from trainings import JOBS, KINDS, Trains

OURS, LOOP, LIGHTNING = KINDS
ALIKE = 1e-4  # of losses, relative: sums are rounded in other orders


def goals(jobs: list[str]) -> list[Goal]:
    return [
        goal
        for job in jobs
        for goal in (
            Goal(f"{job}, {OURS}", f"{job}, {LOOP}", 1 / 1.05),
            Goal(f"{job}, {OURS}", f"{job}, {LIGHTNING}", 1.0),
        )
    ]


def differing(trains: Mapping[str, Trains], jobs: list[str]) -> list[str]:
    """What did other work than the loop."""
    return [
        f"{job}: {kind} comes to other losses than the {LOOP}"
        for job in jobs
        for kind, one in trains.items()
        for ours, loops in zip(one.losses[job], trains[LOOP].losses[job], strict=True)
        if not all(math.isclose(a, b, rel_tol=ALIKE) for a, b in zip(ours, loops, strict=True))
    ]


def once(trains: Mapping[str, Trains], jobs: list[str]) -> dict[str, list[float]]:
    """Epochs a second of each."""
    for one in trains.values():
        for job in jobs:
            one.epochs_per_second(job)  # the first is not like those that follow
    measures = {
        f"{job}, {kind}": (lambda one=one, job=job: one.epochs_per_second(job))
        for job in jobs
        for kind, one in trains.items()
    }
    return take_turns(measures, 1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--data", type=Path, help="where mnist10k.npz lies")
    parser.add_argument(
        "--only", nargs="+", default=[], metavar="NAME", choices=list(JOBS), help="of the trainings"
    )
    parser.add_argument("--json", type=Path, help="also write all figures here")
    options = parser.parse_args()
    jobs = [j for j in JOBS if (options.data or JOBS[j].task == "digits") and j in (options.only or JOBS)]
    kinds = list(KINDS) if importlib.util.find_spec("lightning") else [OURS, LOOP]
    if LIGHTNING not in kinds:
        print("without Lightning, which is not installed (--help says how)", file=sys.stderr)
    found: defaultdict[str, list[float]] = defaultdict(list)
    missed: list[str] = []
    for _ in range(options.rounds):
        with ExitStack() as stack:
            trains = {kind: stack.enter_context(closing(Trains(kind, options.data))) for kind in kinds}
            for name, values in once(trains, jobs).items():
                found[name] += values
            missed = differing(trains, jobs)
    missed += report(found, "epochs/s of CPU", goals(jobs), options.json)
    sys.exit("\n".join(missed) or 0)


if __name__ == "__main__":
    main()
