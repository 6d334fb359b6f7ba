"""What a sampler that computes for seconds costs the calls of workers: nothing that they notice.

    python tests/benchmarks/planner_latency.py [--seconds 5] [--rounds 6] [--workers 4]

Two services on SQLite stand side by side with the same study of trials queued by hand. The planner of
one is kept busy: each suggestion of a second study computes for 5 s in pure Python. Light workers call
both in turn, a round each, so that the machine's moods fall on both. Printed for claim, report and
heartbeat: median and p99 in milliseconds with the planner idle and busy, and the difference of the p99,
which must be at most 5 ms.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import tempfile
import time
from collections import defaultdict
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np

TESTS = Path(__file__).parents[1]
sys.path.insert(0, str(TESTS))

from light import TASK, LightWorker  # noqa: E402
from processes import Server, planner_of  # noqa: E402
from rich.console import Console  # noqa: E402
from rich.table import Table  # noqa: E402

CALLS = ("claim", "report", "heartbeat")
THINKS = "thinks"
BOUND_MS = 5.0
SPACE = {"lr": {"low": 1e-3, "high": 1.0, "log": True}}


class Service(Server):
    """A server process, its planner slowed by `seconds` a suggestion."""

    def __init__(self, home: Path, seconds: float) -> None:
        patch = {
            "PYTHONPATH": str(TESTS / "patches" / "slow_sampler"),
            "TUNESMITH_TEST_SUGGESTION_SECONDS": str(seconds),
        }
        super().__init__(home, ttl_seconds=600, environ=patch)
        self.says("planner.started")
        self.people = self.client()

    def queue(self, trials: int) -> None:
        """A study whose trials stand ready, so that no claim needs the planner."""
        grid = {"kind": "coarse_grid", "epochs": 10_000, "axes": {"lr": 2}}
        self.people.post("studies", json={"name": "ready", "task": TASK, "space": SPACE, "stages": [grid]})
        for begin in range(0, trials, 1000):
            params = [{"lr": 0.01}] * min(1000, trials - begin)
            self.people.post("studies", "ready", "trials", json={"params": params, "stage": "coarse_grid"})

    def think(self) -> None:
        """A study that waits for each suggestion of its model."""
        tpe = {"kind": "tpe", "n_startup_trials": 1, "multivariate": True}
        stage = {"kind": "sampler", "epochs": 1, "trials": 10_000, "sampler": tpe}
        spec = {"name": THINKS, "task": THINKS, "space": SPACE, "stages": [stage], "fresh_wait_seconds": 3600}
        self.people.post("studies", json=spec)


async def burst(worker: LightWorker, seconds: float) -> None:
    """Claims, each followed by reports and beats, until the time is up."""
    until_ = time.perf_counter() + seconds
    while time.perf_counter() < until_:
        claimed = await worker.claim()
        assert claimed is not None, "trials ran out; enqueue more"
        lease, work = claimed
        for seq in range(1, 6):
            await worker.report(lease, work, seq, seq)
            await worker.beat(lease)
        await worker.finish(lease)


async def keep_thinking(service: Service) -> None:
    """Run each suggestion as soon as it is made, so that the next one is always being computed."""
    worker = LightWorker(service.url, service.worker_token, name="thinker", task=THINKS)
    await worker.register()
    while True:
        await worker.run_one(wait_seconds=20)


async def measure(services: dict[str, Service], options: argparse.Namespace) -> dict[str, Any]:
    took: dict[str, dict[str, list[float]]] = {name: defaultdict(list) for name in services}
    fleets = {}
    for name, service in services.items():
        fleets[name] = [LightWorker(service.url, service.worker_token) for _ in range(options.workers)]
        for worker in fleets[name]:
            await worker.register()
    for n in range(options.rounds):
        for name in (list(services), list(services)[::-1])[n % 2]:
            for worker in fleets[name]:
                worker.took.clear()
            await asyncio.gather(*(burst(w, options.seconds) for w in fleets[name]))
            for worker in fleets[name]:
                for call in CALLS:
                    took[name][call] += worker.took[call]
    for worker in [w for fleet in fleets.values() for w in fleet]:
        await worker.client.aclose()
    return {
        call: {
            name: {
                "n": len(took[name][call]),
                "p50_ms": float(np.percentile(took[name][call], 50) * 1e3),
                "p99_ms": float(np.percentile(took[name][call], 99) * 1e3),
            }
            for name in services
        }
        for call in CALLS
    }


async def scene(services: dict[str, Service], options: argparse.Namespace) -> dict[str, Any]:
    for service in services.values():
        service.queue(options.trials)
    services["busy"].think()
    thinking = asyncio.create_task(keep_thinking(services["busy"]))
    planner = planner_of(services["busy"].pid)
    started, began = planner.cpu_times().user, time.perf_counter()
    found = await measure(services, options)
    share = (planner.cpu_times().user - started) / (time.perf_counter() - began)
    assert not thinking.done(), thinking.exception()
    thinking.cancel()
    return found | {"planner_share": share}


def show(found: dict[str, Any]) -> None:
    table = Table("call", "n", "p50 idle", "p50 busy", "p99 idle", "p99 busy", "p99 difference")
    for call in CALLS:
        idle, busy = found[call]["idle"], found[call]["busy"]
        table.add_row(
            call, str(idle["n"] + busy["n"]), f"{idle['p50_ms']:.2f} ms", f"{busy['p50_ms']:.2f} ms",
            f"{idle['p99_ms']:.2f} ms", f"{busy['p99_ms']:.2f} ms",
            f"{busy['p99_ms'] - idle['p99_ms']:+.2f} ms (≤ {BOUND_MS:g})",
        )  # fmt: skip
    console = Console(width=120)
    console.print(table)
    console.print(f"the busy planner computed for {found['planner_share']:.0%} of a core's time")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--seconds", type=float, default=5.0, help="length of a round")
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--workers", type=int, default=4)
    parser.add_argument("--trials", type=int, default=2000, help="queued on each service")
    parser.add_argument("--json", type=Path, help="also write the figures here")
    options = parser.parse_args()
    with ExitStack() as left, tempfile.TemporaryDirectory() as home:
        services = {}
        for name, slow in (("idle", 0.0), ("busy", 5.0)):
            (Path(home) / name).mkdir()
            services[name] = Service(Path(home) / name, slow)
            left.callback(services[name].kill)
        found = asyncio.run(scene(services, options))
    show(found)
    if options.json:
        options.json.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
