"""What augmentation costs: an epoch of the digits CNN with each word, and kornia's own classes beside ours.

    python tests/benchmarks/augmentation.py [--pairs 9]

CPU seconds of one thread, so that others on the machine matter little. Each word's epochs alternate with
epochs without any; what is printed is the median over the pairs.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parents[1]))

from training import make_work, points
from tunesmith_workers import trainer
from tunesmith_workers.augment import make_augmentation
from tunesmith_workers.tasks import builtin
from tunesmith_workers.tasks.registry import Entry

CNN = {"model": "cnn", "batch_size": 32, "lr": 0.05, "optimizer": "momentum"}
WORDS: dict[str, float] = {
    "crop": 1, "flip": 0.5, "rotation": 15.0, "noise": 0.1, "cutout": 0.3, "erasing": 0.5, "mixup": 0.4,
    "cutmix": 1.0,
}  # fmt: skip
SHAPES = [(32, 1, 8, 8), (128, 3, 32, 32)]


def epoch_seconds(entry: Entry, params: dict[str, float], scratch: Path) -> float:
    """Of the second epoch: the first one warms up."""
    work = make_work(task=entry.name, params=CNN | params, epochs=2)
    run = trainer.epochs(entry, work, device=torch.device("cpu"), scratch=scratch, clock=time.process_time)
    with contextlib.redirect_stdout(io.StringIO()):
        return points(list(run))[-1].metrics["sys/epoch_seconds"]


def print_epochs(pairs: int) -> None:
    entry = builtin.registry()["digits"]
    print("| word | epoch of the digits CNN, ms | without, ms | ratio |\n|---|---|---|---|")
    with tempfile.TemporaryDirectory() as scratch:
        for name, params in {**{n: {n: v} for n, v in WORDS.items()}, "all": WORDS, "nothing": {}}.items():
            plain, with_it = [], []
            for _ in range(pairs):
                plain.append(epoch_seconds(entry, {}, Path(scratch)))
                with_it.append(epoch_seconds(entry, params, Path(scratch)))
            ratio = statistics.median(b / a for a, b in zip(plain, with_it, strict=True))
            one, other = (1e3 * statistics.median(found) for found in (with_it, plain))
            print(f"| {name} | {one:.0f} | {other:.0f} | {ratio:.2f} |", flush=True)


def microseconds(work: Callable[[], object], times: int = 60) -> float:
    found = []
    for _ in range(times):
        began = time.process_time()
        work()
        found.append(time.process_time() - began)
    return 1e6 * statistics.median(found)


def kornias(shape: tuple[int, ...]) -> dict[str, Callable[[Tensor, Tensor], object]]:
    import kornia.augmentation as k

    keys = {"data_keys": ["input", "class"]}
    alone = {
        "crop": k.RandomCrop(shape[2:], padding=1, p=1.0),
        "flip": k.RandomHorizontalFlip(p=0.5),
        "rotation": k.RandomRotation(15.0, p=1.0),
        "noise": k.RandomGaussianNoise(std=0.1, p=1.0),
        "erasing": k.RandomErasing(p=0.5),
    }
    mixes = {"mixup": k.RandomMixUpV2(**keys), "cutmix": k.RandomCutMixV2(**keys, use_correct_lambda=True)}
    return {
        **{name: lambda x, y, f=f: f(x) for name, f in alone.items()},
        **{name: lambda x, y, f=f: f(x, y) for name, f in mixes.items()},
    }


def print_operations() -> None:
    print("\n| word | batch | ours, µs | kornia's class, µs | ratio |\n|---|---|---|---|---|")
    for shape in SHAPES:
        x, y = torch.rand(shape), torch.randint(0, 10, shape[:1])
        for name, kornia in kornias(shape).items():
            augment = make_augmentation({name: WORDS[name]}, x, 0)
            assert augment is not None
            ours = microseconds(lambda: augment(x, y, 0, 0))  # noqa: B023
            theirs = microseconds(lambda: kornia(x, y))  # noqa: B023
            print(f"| {name} | {shape} | {ours:.0f} | {theirs:.0f} | {theirs / ours:.1f} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--pairs", type=int, default=9)
    options = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore", DeprecationWarning)
    print_epochs(options.pairs)
    print_operations()


if __name__ == "__main__":
    main()
