"""Summaries side by side, for people."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from soak.requeues import TAKEN_BACK

HEADING = "Chaos with real processes"
NAMES = {"sqlite": "SQLite", "postgres": "PostgreSQL"}
NEVER = "not all did"

Told = dict[str, Any]
"""A summary as its JSON has it."""


def markdown(told: Sequence[Told]) -> str:
    """A column for each."""
    rows = [(what, [of(one) for one in told]) for what, of in ROWS.items()]
    lines = [
        "| | " + " | ".join(map(_name, told)) + " |",
        "|---" * (len(told) + 1) + "|",
    ]
    lines += [f"| {what} | " + " | ".join(cells) + " |" for what, cells in rows]
    return "\n".join(lines) + "\n"


def _name(one: Told) -> str:
    return NAMES[one["database"]] + (f", {one['servers']} servers" if one["servers"] > 1 else "")


def _limited(one: Told) -> str:
    """The study that came nearest to its limit, or passed it."""
    nearest = max(one["limited"], key=lambda s: max(s["polled"], s["logged"]) - s["most"], default=None)
    if nearest is None:
        return "–"
    return f"{len(one['limited'])}; {nearest['polled']} and {nearest['logged']} of {nearest['most']}"


def put(document: Path, told: Sequence[Told]) -> None:
    """In place of the table below the heading `HEADING`, or of the end of that section if it has none."""
    before, found, rest = document.read_text().partition(f"## {HEADING}\n")
    if not found:
        raise ValueError(f"{document} has no section {HEADING}")
    section, more, after = rest.partition("\n## ")
    text = section.partition("\n| | ")[0].rstrip("\n")
    document.write_text(f"{before}{found}{text}\n\n{markdown(told)}{more}{after}")


def _faults(*kinds: str) -> Callable[[Told], str]:
    def of(one: Told) -> str:
        found = [
            f"{one['counts'].get(kind, 0):,} {kind.split()[-1]}" for kind in kinds if kind in one["counts"]
        ]
        return ", ".join(found) or "–"

    return of


def _seconds(name: str) -> Callable[[Told], str]:
    return lambda one: "–" if one[name] is None else f"{one[name]:.1f} s"


def _zombies(one: Told) -> str:
    """Apart: under leases that were taken back, under those that ended otherwise, copies of old requests."""
    by = one["zombie_writes"]
    copies = sum(n for who, n in by.items() if who.startswith("copies"))
    lost = sum(by.get(f"workers, {ending}", 0) for ending in TAKEN_BACK)
    tried = sum(by.values())
    apart = f"{lost:,} after a lost lease, {tried - lost - copies:,} after another end, {copies:,} copies"
    return f"{tried:,} ({apart}); {one['zombie_writes_refused']:,}; **{one['zombie_writes_accepted']}**"


def _memory(one: Told) -> str:
    m = one["memory"]
    said = f"{m['highest']:.0f} MiB"
    if "first" in m:
        said += f"; {m['first']:.0f} → {m['last']:.0f} MiB in {m['minutes between']:.0f} min"
    return said


ROWS: dict[str, Callable[[Told], str]] = {
    "minutes, with the calm at the end": lambda one: f"{one['minutes']:.1f}",
    "finished trials to begin with": lambda one: f"{one['seeded']:,}",
    "light workers; TTL of a lease": lambda one: f"{one['workers']}; {one['ttl_seconds']:g} s",
    "trials done; attempts; requests": lambda one: (
        f"{one['trials_done']:,}; {one['attempts']:,}; {one['requests']:,}"
    ),
    "light workers": _faults("workers killed", "workers stopped"),
    "supervisor of the real worker": _faults("supervisor killed", "supervisor restarted"),
    "trainer": _faults("trainer killed", "trainer stopped"),
    "service": _faults("service killed", "service restarted", "service stopped"),
    "planner; writer": _faults("planner killed", "writer killed"),
    "PostgreSQL": _faults("database killed", "database restarted", "database stopped"),
    "requests": _faults("requests delayed", "requests dropped", "requests replayed"),
    "zombie writes: tried; refused; accepted": _zombies,
    "acknowledged writes, by the workers' notes; lost": lambda one: (
        f"{one['acknowledged']:,}; **{one['lost']}**"
    ),
    "trials that ended twice": lambda one: f"**{one['finished_twice']}**",
    "studies with `max_concurrent`; at once at most, by looking all the time and by the log": _limited,
    "invariants I1–I12 violated": lambda one: f"**{len(one['violations'])}**",
    "leases that ran out; taken back although their worker lived": lambda one: (
        f"{one['expired']:,}; {len(one['taken_alive'])}"
    ),
    "longest time to requeue after the last word, no outage meanwhile or just before": _seconds(
        "requeue_after_sign"
    ),
    "longest after the expiry as outages had moved it": _seconds("requeue_after_expiry"),
    "service ready after a start, longest; starts": lambda one: f"{_seconds('ready')(one)}; {one['starts']}",
    "ready after the database's return, longest": _seconds("recovery"),
    "all ended after the last fault": lambda one: (
        NEVER if one["settled"] is None else f"{one['settled']:.0f} s"
    ),
    "memory of the server: highest; the longest life": _memory,
}
