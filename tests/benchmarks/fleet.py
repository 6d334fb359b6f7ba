"""How many workers one service holds: each has a trial, beats every 10 s and reports every 30 s.

    python tests/benchmarks/fleet.py [--workers 500 1000 2500 5000 10000] [--seconds 60] [--sqlite]

A `tunesmith serve` on PostgreSQL and a process that stands for all workers, on this machine both. Every
worker has a connection of its own, claims a trial, and from then on sends when its clock says so; how long an
answer took is counted from that moment. For each number of workers printed: what was asked and answered a
second, median and p99 of heartbeats and reports in milliseconds, leases that ran out, requests that were
refused (they are sent again a second later), and the share of one core that server, writer, planner,
database and workers took meanwhile. Last of all, how many workers the service held and what gave way at the
next number.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import secrets
import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import psutil
from rich.console import Console
from rich.table import Table

TESTS = Path(__file__).parents[1]
sys.path[:0] = [str(TESTS), str(Path(__file__).parent)]

from databases import Postgres  # noqa: E402
from flood import read_answer, request  # noqa: E402
from light import DIGEST, TASK  # noqa: E402
from processes import planner_of, writer_of  # noqa: E402
from served import Serve, place  # noqa: E402

BEAT_SECONDS, BEATS_A_REPORT = 10.0, 3
AGAIN, AGAIN_SECONDS = (0, 429, 503), 1.0
"""Whoever is answered so asks again after the time that Retry-After names for what keeps a lease, as the
project's own workers do."""
CLAIMS_A_SECOND = 100
BEGIN_SECONDS = 60.0
ANSWERED, P99_MS, LATE_SECONDS = 0.98, 1000.0, 0.5
"""A service holds its workers while it answers such a share of what they ask, within such a time, and no
lease runs out; and the workers' process must not be later than that itself."""

Watched = Mapping[str, int]
"""The processes whose CPU time is told, by name; the database's with its children, as it has one for each
connection."""


@dataclass
class Seen:
    """By the workers, once they had trials.

    Attributes:
        began: how many workers got a trial in time.
        took: seconds from when a request was due, by kind.
    """

    took: dict[str, list[float]] = field(default_factory=lambda: {"heartbeat": [], "report": []})
    statuses: Counter[str] = field(default_factory=Counter)
    began: int = 0
    seconds: float = 0.0
    cpu_seconds: dict[str, float] = field(default_factory=dict)  # by whom
    late_seconds: float = 0.0  # how far the workers' process fell behind its own clock


class Worker(asyncio.Protocol):
    """One worker. Its connection may be closed while nothing is under way; then it makes another."""

    def __init__(self, port: int, token: str, seen: Seen) -> None:
        self._port, self._token, self._seen = port, token, seen
        self._ids = {name: secrets.token_hex(16) for name in ("worker_id", "boot_id", "slot_id")}
        self._secret = secrets.token_hex(16)
        self._transport: Any = None
        self._received, self._lease = b"", ""
        self._answer: asyncio.Future[tuple[int, bytes]] | None = None

    def connection_made(self, transport: Any) -> None:
        self._transport, self._received = transport, b""

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(exc or ConnectionResetError())

    def data_received(self, data: bytes) -> None:
        self._received += data
        answer = read_answer(self._received)
        if answer is not None and self._answer is not None:
            self._received = b""
            if not self._answer.done():  # else whoever asked has ended
                self._answer.set_result(answer)

    async def _ask(self, line: str, body: Any) -> tuple[int, bytes]:
        loop = asyncio.get_running_loop()
        made = request(self._port, self._token, line, body, self._lease)
        for last in (False, True):
            try:
                if self._transport is None:
                    await loop.create_connection(lambda: self, "127.0.0.1", self._port)
                self._answer = loop.create_future()
                self._transport.write(made)
                return await self._answer
            except OSError:  # it was closed as we wrote
                if last:
                    return 0, b""
        raise AssertionError

    async def begin(self) -> None:
        """Register and claim."""
        slot = {"slot_id": self._ids["slot_id"], "devices": ["cpu"]}
        body = {
            "worker_id": self._ids["worker_id"], "boot_id": self._ids["boot_id"], "starts": 1,
            "name": "fleet", "version": "0", "tasks": {TASK: DIGEST}, "slots": [slot],
        }  # fmt: skip
        await self._insist(f"PUT /api/v1/workers/{self._ids['worker_id']}", body)
        asked = {**self._ids, "claim_id": secrets.token_hex(16), "secret": self._secret}
        grant = json.loads(await self._insist("POST /api/v1/claims", asked))["grant"]
        self._trial = grant["trial_id"]
        self._lease = f"Tunesmith-Lease: {grant['incarnation']}.{grant['attempt']}.{self._secret}\r\n"

    async def _insist(self, line: str, body: Any) -> bytes:
        while (answer := await self._ask(line, body))[0] != 200:
            if answer[0] not in AGAIN:
                raise RuntimeError(f"{line}: {answer}")
            await asyncio.sleep(random.uniform(1, 3))
        return answer[1]

    async def live(self, counting: asyncio.Event, over: asyncio.Event) -> None:
        """Beat and report until it is over."""
        due, beats, seq = time.perf_counter() + random.uniform(0, BEAT_SECONDS), 0, 1
        while not over.is_set():
            await asyncio.sleep(max(0.0, due - time.perf_counter()))
            self._seen.late_seconds = max(self._seen.late_seconds, time.perf_counter() - due)
            beats += 1
            kind = "heartbeat" if beats % BEATS_A_REPORT else "report"
            if kind == "heartbeat":
                status, _ = await self._ask(f"POST /api/v1/leases/{self._trial}/heartbeat", {})
            else:
                points = [{"step": seq, "metrics": {"val/loss": 0.5}}]
                body = {"seq": seq, "points": points}
                status, _ = await self._ask(f"POST /api/v1/leases/{self._trial}/reports", body)
                seq += status == 200
            if counting.is_set():
                self._seen.took[kind].append(time.perf_counter() - due)
                self._seen.statuses[str(status)] += 1
            if status in AGAIN:
                beats -= 1
            due = max(due + (AGAIN_SECONDS if status in AGAIN else BEAT_SECONDS), time.perf_counter())


async def _live(port: int, token: str, workers: int, seconds: float, watched: Watched) -> Seen:
    seen, counting, over = Seen(), asyncio.Event(), asyncio.Event()
    began = time.perf_counter()
    lives: list[asyncio.Task[None]] = []

    async def one(number: int) -> None:
        await asyncio.sleep(max(0.0, began + number / CLAIMS_A_SECOND - time.perf_counter()))
        worker = Worker(port, token, seen)
        await worker.begin()
        lives.append(asyncio.create_task(worker.live(counting, over)))

    beginning = [asyncio.create_task(one(number)) for number in range(workers)]
    patience = workers / CLAIMS_A_SECOND + BEGIN_SECONDS
    done, waiting = await asyncio.wait(beginning, timeout=patience, return_when=asyncio.FIRST_EXCEPTION)
    for task in done:
        task.result()
    for task in waiting:
        task.cancel()
    seen.began = len(lives)
    await asyncio.sleep(2 * BEAT_SECONDS)  # until every worker beats
    seen.late_seconds = 0.0
    counting.set()
    started, before = time.perf_counter(), cpu_seconds(watched)
    await asyncio.sleep(seconds)
    counting.clear()
    seen.seconds, after = time.perf_counter() - started, cpu_seconds(watched)
    seen.cpu_seconds = {name: after[name] - before[name] for name in after}
    over.set()
    for task in lives:
        task.cancel()
    await asyncio.gather(*lives, return_exceptions=True)
    return seen


def live(port: int, token: str, workers: int, seconds: float, watched: Watched) -> Seen:
    return asyncio.run(_live(port, token, workers, seconds, watched))


def cpu_seconds(watched: Watched) -> dict[str, float]:
    found = {name: _cpu_seconds(pid, children=name == "database") for name, pid in watched.items()}
    return {**found, "all workers": time.process_time()}


def _cpu_seconds(pid: int, *, children: bool = False) -> float:
    first, seconds = psutil.Process(pid), 0.0
    for process in (first, *(first.children() if children else ())):
        with suppress(psutil.NoSuchProcess):
            seconds += sum(process.cpu_times()[:2])
    return seconds


def expired(serve: Serve) -> float:
    bearer = {"Authorization": f"Bearer {serve.token('operator')}"}
    lines = httpx.get(f"{serve.url}/metrics", headers=bearer, timeout=60).text.splitlines()
    return sum(float(n.split()[-1]) for n in lines if n.startswith("tunesmith_lease_expiries_total"))


def measures(
    home: Path, postgres: Postgres | None, workers: list[int], seconds: float
) -> Iterator[dict[str, Any]]:
    for many in workers:
        url = postgres.database(f"of_{many}") if postgres else ""
        with Serve(home / str(many), url) as serve, serve.study(many):
            watched = {
                "server": serve.pid,
                "writer": writer_of(serve.pid).pid,
                "planner": planner_of(serve.pid).pid,
            }
            if postgres:
                watched["database"] = postgres.processes()[0].pid
            with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
                token = serve.token("worker")
                seen = pool.submit(live, serve.port, token, many, seconds, watched).result()
            yield row_of(many, seen, expired(serve))


def row_of(many: int, seen: Seen, expiries: float) -> dict[str, Any]:
    return {
        "workers": many,
        "of them began": seen.began,
        "asked a second": many / BEAT_SECONDS,
        "answered a second": seen.statuses["200"] / seen.seconds,
        **{
            f"{kind} p{q}": 1000 * float(np.quantile(took, q / 100))
            for kind, took in seen.took.items()
            for q in (50, 99)
        },
        "leases that ran out": expiries,
        "refused": sum(n for status, n in seen.statuses.items() if status != "200"),
        **{f"cores: {name}": cpu / seen.seconds for name, cpu in seen.cpu_seconds.items()},
        "workers late by": seen.late_seconds,
    }


def gave_way(row: Mapping[str, Any]) -> list[str]:
    """What a service did not hold of what these workers asked; or why that cannot be told."""
    share = row["answered a second"] / row["asked a second"]
    p99 = max(row["heartbeat p99"], row["report p99"])
    lost, late = row["leases that ran out"], row["workers late by"]
    return [
        *([f"{row['of them began']:,} began"] if row["of them began"] < row["workers"] else []),
        *([f"{share:.0%} was answered"] if share < ANSWERED else []),
        *([f"p99 is {p99:,.0f} ms"] if p99 > P99_MS else []),
        *([f"{lost:,.0f} leases ran out"] if lost else []),
        *([f"the workers' own process is {late:.1f} s late"] if late > LATE_SECONDS else []),
    ]


def summed_up(rows: Sequence[Mapping[str, Any]]) -> str:
    held = "none"
    for row in rows:
        if what := gave_way(row):
            return f"held: {held}; with {row['workers']:,} workers {', '.join(what)}"
        held = f"{row['workers']:,} workers"
    return f"held: {held}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--workers", type=int, nargs="+", default=[500, 1000, 2500, 5000, 10_000])
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--sqlite", action="store_true")
    parser.add_argument("--home", type=Path, help="where everything lies; default: a temporary directory")
    parser.add_argument("--json", type=Path, help="also write all figures here")
    options = parser.parse_args()
    rows = []
    with place(options.home, postgresql=not options.sqlite) as (home, postgres):
        for row in measures(home, postgres, options.workers, options.seconds):
            print(json.dumps(row), file=sys.stderr, flush=True)
            rows.append(row)
    table = Table("", *(f"{row['workers']:,}" for row in rows))
    for name in rows[0]:
        table.add_row(name, *(f"{row[name]:,.4g}" for row in rows))
    Console(width=110).print(table)
    print(summed_up(rows))
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
