"""What a claim waits for when the planner has a draft ready, and how many are given a stale one.

One `tunesmith serve` with a study of a TPE stage that has grown; eight light workers claim, train for about
two seconds and finish, and take their time before they claim again, as those do that start a process. The
log tells of each claim whether the draft it was given stood when it was sent (ready), was drawn or drawn anew
while it waited, or had not seen the newest end of a trial (stale).
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from light import LightWorker
from planning import grow
from rich.console import Console
from rich.table import Table
from served import Serve, place
from sqlalchemy import select
from tunesmith_service import db, event_log
from tunesmith_service.client import AlreadyFinal
from tunesmith_service.event_log import Event
from tunesmith_service.tables import studies

WORKERS = 8
TRAINS_SECONDS, RESTS_SECONDS = 2.0, 0.5
WAIT_SECONDS = 5.0
BOUND_MS = 50.0


@dataclass(frozen=True)
class Asked:
    """A claim that was granted: trial, when it was sent (µs since 1970), how long it took."""

    trial: int
    sent_us: int
    ms: float


@dataclass
class Claims:
    """Milliseconds of claims by what they were given, and from each end of a trial to the next draft."""

    ready: list[float] = field(default_factory=list)
    waited: list[float] = field(default_factory=list)
    stale: list[float] = field(default_factory=list)
    drawn_after: list[float] = field(default_factory=list)

    @property
    def all(self) -> list[float]:
        return [*self.ready, *self.waited, *self.stale]


async def _work(serve: Serve, seconds: float, number: int) -> list[Asked]:
    """One worker until the time is up."""
    draw = random.Random(number)
    worker = LightWorker(serve.url, serve.token("worker"), name=f"light-{number}", task="tpe")
    await worker.register()
    asked: list[Asked] = []
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        await asyncio.sleep(draw.expovariate(1 / RESTS_SECONDS))
        sent_us = time.time_ns() // 1000
        claimed = await worker.claim(WAIT_SECONDS)
        if claimed is None:
            continue
        lease, work = claimed
        asked.append(Asked(work.number, sent_us, 1000 * worker.took["claim"][-1]))
        await asyncio.sleep(draw.expovariate(1 / TRAINS_SECONDS))
        with contextlib.suppress(AlreadyFinal):  # pruned
            await worker.report(lease, work, 1, 1)
            await worker.finish(lease)
    await worker.client.aclose()
    return asked


async def _work_all(serve: Serve, seconds: float) -> list[Asked]:
    found = await asyncio.gather(*(_work(serve, seconds, n) for n in range(WORKERS)))
    return [one for each in found for one in each]


def log_after(database: Path, n: int) -> list[Event]:
    """The log of the only study after event n."""
    engine = db.open_engine(f"sqlite:///{database}")
    with engine.connect() as conn:
        (study_id,) = conn.scalars(select(studies.c.id))
        found = event_log.page(conn, study_id, n, limit=10**9)
    engine.dispose()
    return found


def sorted_out(asked: Sequence[Asked], log: Sequence[Event]) -> Claims:
    claims, claim_of = Claims(), {one.trial: one for one in asked}
    drawn: dict[int, Event] = {}
    last_end = undrawn_end = None
    for event in log:
        number = event.trial_number or 0
        if event.kind in ("planned", "redrawn"):
            drawn[number] = event
            if undrawn_end is not None and event.data["planned_at"] >= undrawn_end.n:
                claims.drawn_after.append((event.at_us - undrawn_end.at_us) / 1000)
                undrawn_end = None
        elif event.kind == "moved" and event.data["from"] == "running":
            last_end, undrawn_end = event, undrawn_end or event
        elif event.kind == "moved" and number in claim_of and number in drawn:
            one, draft = claim_of[number], drawn[number]
            if last_end is not None and draft.data["planned_at"] < last_end.n:
                claims.stale.append(one.ms)
            else:
                (claims.ready if draft.at_us <= one.sent_us else claims.waited).append(one.ms)
    return claims


def show(claims: Claims, trials: int) -> list[str]:
    """Returns: what missed the bound."""
    everything = claims.all
    table = Table(f"claims at {trials:,} trials", "of all", "median ms", "p95", "p99")
    rows = {
        "a draft was ready": claims.ready, "waited for a fresh one": claims.waited,
        "were given a stale one": claims.stale, "all": everything,
    }  # fmt: skip
    for name, took in rows.items():
        cells = [f"{np.quantile(took, q):.1f}" if took else "–" for q in (0.5, 0.95, 0.99)]
        table.add_row(name, f"{len(took)} ({len(took) / len(everything):.0%})", *cells)
    Console(width=110).print(table)
    after = np.quantile(claims.drawn_after, (0.5, 0.95))
    print(f"from a trial's end to a draft that saw it: median {after[0]:.0f} ms, p95 {after[1]:.0f} ms")
    p99 = float(np.quantile(claims.ready, 0.99))
    print(f"goal: p99 of claims with a draft ready at most {BOUND_MS:g} ms")
    return [f"claims with a draft ready: p99 is {p99:.1f} ms"] if p99 > BOUND_MS else []


def measure(within: Path | None, trials: int, seconds: float) -> tuple[Claims, list[str]]:
    with place(within, postgresql=False) as (home, _), Serve(home / "home") as serve:
        grow(serve, trials, limits={"max_concurrent": WORKERS})  # those who made it grow count as idle slots
        database = home / "home" / "tunesmith.db"
        before = log_after(database, 0)
        asked = asyncio.run(_work_all(serve, seconds))
        claims = sorted_out(asked, [*before, *log_after(database, before[-1].n)])
    return claims, show(claims, trials)
