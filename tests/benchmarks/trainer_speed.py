"""CPU time of an epoch of the digits MLP on the built-in trainer, here and in another checkout.

    git archive 0f08430 workers studies service | tar -x -C /tmp/before
    python tests/benchmarks/trainer_speed.py --before /tmp/before

Both train the same work order, each in a process of its own with one thread, an epoch in turn and in
random order, so that whatever else the machine does meets both alike. A second process of the other
checkout is the control: its ratio says how far noise goes. It prints medians in ms of CPU time, and the
ratios of medians and of 10th percentiles.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

PARAMS = {"optimizer": "momentum", "lr": 0.05, "batch_size": 32}
HERE = Path(__file__).resolve().parents[2]
WARM_UP = 10  # epochs


def epochs(scratch: Path) -> Iterator[Any]:
    # Here, since they are those of the checkout that this process stands for.
    import torch
    import torch._dynamo
    from tunesmith_service.wire import WorkOrder
    from tunesmith_workers import trainer
    from tunesmith_workers.tasks import digits
    from tunesmith_workers.tasks.registry import Entry

    work = WorkOrder(
        study="speed", stage="speed", number=0, task="digits", params=PARAMS, epochs=10**6, seed=1,
        metric="val/loss", direction="minimize",
    )  # fmt: skip
    entry = Entry("digits", digits.task(), "0" * 64)
    return trainer.epochs(entry, work, device=torch.device("cpu"), scratch=scratch)


def serve() -> None:
    """Train an epoch for each line of input, and print the CPU seconds that it took."""
    with tempfile.TemporaryDirectory() as scratch:
        training = epochs(Path(scratch))
        for _ in sys.stdin:
            began = time.process_time()
            with contextlib.redirect_stdout(io.StringIO()):
                next(training)
            print(time.process_time() - began, flush=True)


class Trained:
    """A process that trains with the packages of one checkout."""

    def __init__(self, name: str, root: Path) -> None:
        self.name = name
        self.seconds: list[float] = []
        path = os.pathsep.join(str(root / part) for part in ("workers", "studies", "service"))
        self._process = subprocess.Popen(
            [sys.executable, __file__, "--serve"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=os.environ | {"PYTHONPATH": path},
            text=True,
        )

    def epoch(self) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        self.seconds.append(float(self._process.stdout.readline()))

    def close(self) -> None:
        self._process.communicate()

    def quantiles(self) -> tuple[float, float]:
        """Median and 10th percentile, in ms."""
        kept = sorted(self.seconds[WARM_UP:])
        return 1e3 * statistics.median(kept), 1e3 * kept[len(kept) // 10]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--before", type=Path, help="the other checkout")
    parser.add_argument("--epochs", type=int, default=300, help="of each")
    parser.add_argument("--serve", action="store_true", help="for the script itself")
    options = parser.parse_args()
    if options.serve:
        return serve()
    if options.before is None:
        parser.error("--before: the directory of the other checkout")
    names = {"before": options.before, "here": HERE, "before again": options.before}
    trained = [Trained(name, root) for name, root in names.items()]
    for _ in range(options.epochs + WARM_UP):
        for one in random.sample(trained, len(trained)):
            one.epoch()
    base = trained[0].quantiles()
    for one in trained:
        one.close()
        median, tenth = one.quantiles()
        print(
            f"{one.name:13} {median:6.2f} ms, 10th percentile {tenth:6.2f} ms; "
            f"ratio {median / base[0]:.3f}, {tenth / base[1]:.3f}"
        )
    return None


if __name__ == "__main__":
    main()
