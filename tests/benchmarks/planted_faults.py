"""Planted faults: broken tasks and loops, and who names the fault; sound ones, and what is said of them.

    python tests/benchmarks/planted_faults.py --data DIR [--only WORD …]

DIR holds mnist10k.npz, satellite.npz, spam.npz and phoneme.npz. Each case goes through the stage `preflight`
as a study would run it; where that does not name the fault, a real training follows, whose curve is
diagnosed. Exits with 1 if a fault is missed, or if of a sound task or loop a check fails or more than one
warns. Four to nine minutes on one core.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import sys
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

TESTS = Path(__file__).parents[1]
sys.path.insert(0, str(TESTS))

from faults import FAULTY, HEALTHY_LOOPS, Case, Found, look_for_faults  # noqa: E402
from tunesmith_workers.tasks import builtin  # noqa: E402

FILES = ("mnist10k", "satellite", "spam", "phoneme")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, metavar="DIR", help="where the .npz files are")
    parser.add_argument("--only", nargs="*", default=[], metavar="WORD", help="cases with this in the name")
    options = parser.parse_args()
    torch.set_num_threads(1)
    console = Console(width=200 if not sys.stdout.isatty() else None)
    missed = faulty(_chosen(FAULTY.values(), options.only), console)
    alarmed = healthy(_chosen([*builtin_tasks(options.data), *HEALTHY_LOOPS.values()], options.only), console)
    console.print(f"{missed} faults missed, {alarmed} false alarms")
    sys.exit(1 if missed or alarmed else 0)


def builtin_tasks(data: Path) -> Iterator[Case]:
    """What people meet first: the built-in tasks as they are."""
    registry = builtin.registry((), {name: data / f"{name}.npz" for name in FILES})
    params = {"optimizer": "momentum", "lr": 0.03}
    for name in ("digits", *FILES):
        task = registry[name].task
        if name == "digits":
            yield Case("digits cnn", lambda task=task: task, {**params, "model": "cnn"})
        yield Case(name, lambda task=task: task, params)


def faulty(cases: Iterable[Case], console: Console) -> int:
    """Print who names each fault. Returns how many nobody names."""
    table, missed = Table("fault", "found by", "level", "sentence", title="planted faults"), 0
    for case in cases:
        found = _quietly(case)
        naming = found.naming(case)
        if naming is None:
            missed += 1
            others = ", ".join(f.kind for f in (*found.preflight, *found.diagnosis)) or "nothing"
            table.add_row(case.name, "[red]missed[/red]", "", f"said: {others}")
        else:
            where, finding = naming
            table.add_row(case.name, f"{where}: {finding.kind}", finding.level, finding.sentence)
    console.print(table)
    return missed


def healthy(cases: Iterable[Case], console: Console) -> int:
    """Print what is said of sound cases. Returns of how many a check fails or more than one warns."""
    table = Table("sound", "fails", "warns", "what was said", title="false alarms")
    alarmed = 0
    for case in cases:
        found = _quietly(case)
        fails, warns = found.count("fail"), found.count("warn")
        alarmed += fails > 0 or warns > 1
        said = "; ".join(f"{f.kind}: {f.sentence}" for f in found.preflight)
        table.add_row(case.name, str(fails), str(warns), said)
    console.print(table)
    return alarmed


def _quietly(case: Case) -> Found:
    with tempfile.TemporaryDirectory() as scratch, contextlib.redirect_stdout(io.StringIO()):
        return look_for_faults(case, Path(scratch), train=bool(case.expected))


def _chosen(cases: Iterable[Case], words: list[str]) -> list[Case]:
    return [case for case in cases if not words or any(word in case.name for word in words)]


if __name__ == "__main__":
    main()
