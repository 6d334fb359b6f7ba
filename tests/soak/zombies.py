"""Writes under leases that were over by then: how many were tried, and what became of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

from history import Call
from invariants import ACCEPTED, Seen
from sqlalchemy import Engine, text
from tunesmith_service.clock import SECOND

ENDS = ("finish", "release")
MARGIN_SECONDS = 0.05
"""A write that began this soon after the end may have been on its way before: it is not counted."""

PUT_OFF = (429, 503)


@dataclass
class Zombies:
    """Attributes:
    tried: that the service decided on, by whom (`workers` themselves, or `copies` of old requests) and by
        what had ended the lease, such as `workers, expired`.
    refused: of those.
    accepted: a sentence for each other one.
    told_again: ends that their own holder had said before, and that got the same answer again.
    undecided: that got no answer, or came while there was no room or no database.
    """

    tried: Counter[str] = field(default_factory=Counter)
    refused: int = 0
    accepted: list[str] = field(default_factory=list)
    told_again: int = 0
    undecided: int = 0


def committed_us(engine: Engine) -> dict[tuple[int, int], int]:
    """When the end of each attempt was committed, by (trial id, attempt); of a PostgreSQL that notes it.

    A server stamps what it writes with the time at which it began, and may then wait for another one: until
    the commit the lease holds at that one.
    """
    wanted = text(
        "SELECT trial_id, attempt, (extract(epoch FROM pg_xact_commit_timestamp(xmin)) * 1e6)::bigint "
        "FROM attempts WHERE ended_us IS NOT NULL"
    )
    with engine.connect() as conn:
        return {(trial, attempt): us for trial, attempt, us in conn.execute(wanted)}


def zombies(seen: Seen, ended_us: Mapping[tuple[int, int], int] | None = None) -> Zombies:
    """Of all writes that carry a lease, those that came to the proxy after the lease had ended.

    Args:
        ended_us: see `committed_us`; else as the rows have it, which is the same where one server writes.
    """
    over = {(a.trial_id, a.attempt): a for a in seen.rows["attempts"] if a.ended_us is not None}
    found = Zombies()
    for call in seen.calls:
        if call.lease is None or call.what not in (*ACCEPTED, *ENDS):
            continue
        attempt = over.get((call.lease.trial_id, call.lease.attempt))
        if attempt is None:
            continue
        ended = (ended_us or {}).get((attempt.trial_id, attempt.attempt), attempt.ended_us)
        if call.begin - MARGIN_SECONDS < ended / SECOND:
            continue
        if call.maybe or call.status in PUT_OFF:
            found.undecided += 1
        elif call.ok and call.what in ENDS and attempt.said is not None:
            found.told_again += 1
        else:
            _judge(found, call, attempt.ending)
    return found


def _judge(found: Zombies, call: Call, ending: str) -> None:
    by = "copies" if call.client.startswith("copy of ") else "workers"
    found.tried[f"{by}, {ending}"] += 1
    if call.ok:
        found.accepted.append(f"{call.what} under {call.lease} was accepted after its {ending}")
    else:
        found.refused += 1
