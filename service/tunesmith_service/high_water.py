"""A note beside the server of how far its database had come, so that an older copy of it is noticed.

A database put back from a backup has forgotten what it acknowledged since: leases that it handed
out, attempts that it numbered. Served as if nothing had happened, it would give the same attempt
numbers again, and two workers would hold one lease. `restoring` prevents that, but a file copied by
hand passes by it; this note does not.

It is written after each round of the sweeper, never before the commit that it tells of, and is not
made durable: after a power cut it may be older than the database, never newer.
"""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path

from tunesmith_service.store import Instance

FILE = "high-water.json"


class OlderDatabaseError(RuntimeError):
    """The database is older than what was served from this home before."""


@dataclass(frozen=True, slots=True)
class Mark:
    """How far a database had come: restores, then the time of the sweeper's newest round."""

    uuid: str
    incarnation: int
    tick_us: int


def of(instance: Instance) -> Mark:
    return Mark(instance.uuid, instance.incarnation, instance.last_tick_us)


def read(home: Path) -> Mark | None:
    """None if nothing was served from here yet, or the note cannot be read."""
    try:
        return Mark(**json.loads((home / FILE).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None


def write(home: Path, mark: Mark) -> None:
    part = home / f"{FILE}.part"
    part.write_text(json.dumps(asdict(mark)) + "\n", encoding="utf-8")
    os.replace(part, home / FILE)


def is_behind(instance: Instance, mark: Mark | None) -> bool:
    """Whether a database is an older copy of the one that the mark was made of."""
    if mark is None or mark.uuid != instance.uuid:
        return False
    return (instance.incarnation, instance.last_tick_us) < (mark.incarnation, mark.tick_us)
