"""The audit log as values: what an entry holds, how entries hang together, and where a chain is broken.

Each entry holds the hash of the one before and its own, which covers both. Whoever changes, removes or
inserts one must make every later one anew, up to the head; a head that was noted elsewhere gives it away.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

START = "0" * 64
"""The hash before the first entry."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One action.

    Attributes:
        n: its place, from 1 and without gaps.
        action: such as `study.stop`; `audit_actions` has them all.
        actor, key_id: who, as the event log names them, and with which token; the service itself has none.
        address, request_id: where it came from; empty for what the service did by itself.
        subject: such as `study 3 digits-demo`.
        detail: what was asked for, in a few words; never a secret.
        before, after: digests of what it is about; None where it was not there.
        previous: the hash of entry n - 1.
    """

    n: int
    at_us: int
    action: str
    actor: str
    key_id: str
    address: str
    request_id: str
    project_id: int | None
    subject: str
    detail: Mapping[str, Any]
    before: str | None
    after: str | None
    previous: str
    hash: str = ""

    def reckoned(self) -> str:
        """What `hash` must be."""
        return digest({name: value for name, value in asdict(self).items() if name != "hash"})


@dataclass(frozen=True, slots=True)
class Link:
    """A place in the chain, and the hash of the entry there: its head, or the last that was removed."""

    n: int
    hash: str


@dataclass(frozen=True, slots=True)
class Broken:
    """The first entry that is not as it was written, and what is wrong with it."""

    n: int
    why: str


def digest(value: Any) -> str:
    """SHA-256 of a JSON value with sorted keys, in hex."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def first_broken(
    entries: Iterable[Entry], anchor: Link, head: Link, noted: Link | None = None
) -> Broken | None:
    """None if the entries from `anchor` (exclusive) to `head` (inclusive), in order, are whole.

    Args:
        noted: an earlier head, as somebody kept it elsewhere; one from before `anchor` tells nothing.
    """
    n, last = anchor.n, anchor.hash
    for entry in entries:
        if why := _misfit(entry, n, last):
            return why
        n, last = entry.n, entry.hash
        if _differs(noted, n, last):
            break
    if _differs(noted, n, last):
        return Broken(n, "is not the one that was noted: all up to it may have been written anew")
    until = max(head.n, noted.n if noted else 0)
    if n < until:
        return Broken(n + 1, f"is missing; the chain went on to {until}")
    return Broken(n, "is the last, and not what the chain's head says") if last != head.hash else None


def _misfit(entry: Entry, n: int, last: str) -> Broken | None:
    """What keeps an entry from following on entry `n` with the hash `last`."""
    if entry.n != n + 1:
        return Broken(n + 1, f"is missing; {entry.n} follows on {n}")
    if entry.previous != last:
        return Broken(entry.n, f"does not hold the hash of entry {n}: one of the two was replaced")
    if entry.reckoned() != entry.hash:
        return Broken(entry.n, "was changed: its hash does not cover what it says now")
    return None


def _differs(noted: Link | None, n: int, found: str) -> bool:
    return noted is not None and noted.n == n and noted.hash != found
