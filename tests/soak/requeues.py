"""How long a lost trial waits until it goes back to the queue, and which leases should not have run out."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from history import Call
from invariants import Seen, overlap
from sqlalchemy import Engine, select
from tunesmith_service import tables
from tunesmith_service.clock import SECOND

from soak.faults import Span
from soak.worker import id_of

LOOK_SECONDS = 0.3
MOST_WORKERS = 1000
TAKEN_BACK = ("expired", "reboot")
"""What ends a lease without a word of its holder."""

Place = tuple[int, int]
"""A trial's id and the number of its attempt."""


@dataclass
class Expiries:
    """Looks again and again until when each lease holds; outages move that, and nothing else tells."""

    engine: Engine
    last_us: dict[Place, int] = field(default_factory=dict)

    async def watch(self) -> None:
        """Until cancelled."""
        while True:
            with contextlib.suppress(Exception):  # the database is away
                self.last_us |= await asyncio.to_thread(self._look)
            await asyncio.sleep(LOOK_SECONDS)

    def _look(self) -> dict[Place, int]:
        t = tables.trials.c
        wanted = select(t.id, t.attempt, t.lease_expires_us).where(t.state == "running")
        with self.engine.connect() as conn:
            return {(row.id, row.attempt): row.lease_expires_us for row in conn.execute(wanted)}


@dataclass(frozen=True, slots=True)
class Requeued:
    """A trial whose lease ran out.

    Attributes:
        after_sign_seconds: since its holder was last heard of.
        after_expiry_seconds: since its expiry as outages had moved it; None if nobody saw it. Time in which
            the service did not run is left out.
        is_quiet: no outage meanwhile, nor so soon before that it may have moved the expiry beyond what the
            last word made it: after an outage a lease lives a third of its TTL longer.
    """

    place: Place
    at_us: int
    after_sign_seconds: float
    after_expiry_seconds: float | None
    is_quiet: bool


def requeued(seen: Seen, expiries: Mapping[Place, int], outages: Sequence[Span]) -> list[Requeued]:
    """Every trial that went back because its lease ran out."""
    signs = _signs(seen)
    spans = [(s.begin_us, s.end_us) for s in outages]
    found = []
    for event in seen.rows["events"]:
        if event.kind == "moved" and event.cause == "expired":
            place = (event.trial_id, event.data["attempt"])
            expiry = expiries.get(place)
            late = None if expiry is None else event.at_us - expiry - overlap(spans, expiry, event.at_us)
            sign = signs[place]
            is_quiet = overlap(spans, sign - seen.ttl_us // 3, event.at_us) == 0
            found.append(
                Requeued(place, event.at_us, (event.at_us - sign) / SECOND, late and late / SECOND, is_quiet)
            )
    return found


def _signs(seen: Seen) -> dict[Place, int]:
    """When each attempt's holder was last heard of, in µs: the claim, or a write that was accepted."""
    last = {(a.trial_id, a.attempt): a.claimed_us for a in seen.rows["attempts"]}
    for call in seen.calls:
        if call.lease is not None and (call.ok or call.maybe):
            place = (call.lease.trial_id, call.lease.attempt)
            last[place] = max(last.get(place, 0), call.served_us)
    return last


def of_the_living(seen: Seen, noted: Sequence[Call], harmed: Mapping[int, Sequence[Span]]) -> list[str]:
    """A sentence for each lease that was taken back although its light worker ran all the time and had it.

    Args:
        noted: what light workers wrote down.
    """
    numbers = {id_of("worker", number): number for number in range(MOST_WORKERS)}
    known = {(grant["trial_id"], grant["attempt"]) for call in noted if (grant := call.grant)}
    signs = _signs(seen)
    told = []
    for attempt in seen.rows["attempts"]:
        place, number = (attempt.trial_id, attempt.attempt), numbers.get(attempt.worker_id)
        if attempt.ending not in TAKEN_BACK or number is None or place not in known:
            continue  # the real worker's, or a grant that nobody has heard of
        spans = [(s.begin_us, s.end_us) for s in harmed.get(number, ())]
        if overlap(spans, attempt.claimed_us, attempt.ended_us) == 0:
            silent = (attempt.ended_us - signs[place]) / SECOND
            told.append(
                f"attempt {place[1]} of trial id {place[0]} was taken back ({attempt.ending}) although "
                f"worker {number} lived; last heard of {silent:.1f} s before"
            )
    return told
