"""Writes under leases that were over by then: how many were tried, and what became of them."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from history import Call
from invariants import ACCEPTED, Seen
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


def zombies(seen: Seen) -> Zombies:
    """Of all writes that carry a lease, those that came to the proxy after the lease had ended."""
    over = {(a.trial_id, a.attempt): a for a in seen.rows["attempts"] if a.ended_us is not None}
    found = Zombies()
    for call in seen.calls:
        if call.lease is None or call.what not in (*ACCEPTED, *ENDS):
            continue
        attempt = over.get((call.lease.trial_id, call.lease.attempt))
        if attempt is None or call.begin - MARGIN_SECONDS < attempt.ended_us / SECOND:
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
