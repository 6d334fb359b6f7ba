"""What a server tells of itself, for Prometheus. No label holds anything that somebody wrote.

Counters and histograms are kept as things happen; gauges are set when somebody asks (`exposition`), from
memory and from the counters that studies have, so that a scrape costs the same at 100,000 trials. All of it
is this server's: with several, what is in the database (`tunesmith_trials_*`) shows in each.
"""

from __future__ import annotations

import re
import shutil
from collections import Counter as Tally
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from sqlalchemy.pool import QueuePool

from tunesmith_service import store
from tunesmith_service.batches import HANDLERS, Batch
from tunesmith_service.commands import Ended, Finish
from tunesmith_service.errors import ClaimStale, LeaseLost, Refused
from tunesmith_service.places import Priority

if TYPE_CHECKING:
    from tunesmith_service.core import Service

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
LOST = ("expired", "reboot")
"""Causes for which a lease ends without a word from its holder."""
REQUEUED = (*LOST, "release", "retry")
TOLD_APART = (409, 429, 503, 507)
"""Statuses that are counted by themselves, beside their class."""
SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
COMMANDS = (1, 2, 4, 8, 16, 32, 64, 128, 256)


class Metrics:
    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self._count_leases()
        self._count_requests()
        self._count_writes()
        self._gauges = {name: self._gauge(name, told) for name, told in GAUGES.items()}
        self._connections = Gauge(
            "tunesmith_database_connections",
            "Connections to the database.",
            ["state"],
            registry=self._registry,
        )

    def _counter(self, name: str, told: str, label: str, values: Sequence[str]) -> dict[str, Any]:
        """A counter's children by the value of its label; all are shown from the start, as rates need it."""
        made = Counter(f"tunesmith_{name}", told, [label], registry=self._registry)
        return {value: made.labels(value) for value in values}

    def _gauge(self, name: str, told: str) -> Gauge:
        return Gauge(f"tunesmith_{name}", told, registry=self._registry)

    def _histogram(self, name: str, told: str, bounds: Sequence[float], **more: Any) -> Histogram:
        return Histogram(f"tunesmith_{name}", told, buckets=bounds, registry=self._registry, **more)

    def _count_leases(self) -> None:
        self._expiries = self._counter(
            "lease_expiries", "Leases that ended without their holder.", "cause", LOST
        )
        self._requeued = self._counter(
            "trials_requeued", "Running trials that went back to waiting.", "cause", REQUEUED
        )
        self._fenced = self._counter(
            "fenced_writes", "Writes under a lease that had ended: zombies.", "kind", KINDS
        )

    def _count_requests(self) -> None:
        classes = [*(f"{n}xx" for n in range(1, 6)), *map(str, TOLD_APART)]
        self._answers = self._counter(
            "answers", "By status; 409, 429, 503 and 507 are not in their class.", "status", classes
        )
        names = [p.label for p in Priority]
        self._shed = self._counter("requests_shed", "Refused because too many came.", "priority", names)
        self._told_shed: Tally[Priority] = Tally()
        self._told_quick = 0
        seconds = self._histogram(
            "request_seconds", "From arrival to answer; claims with their wait.", SECONDS,
            labelnames=["priority"],
        )  # fmt: skip
        self._seconds = {priority: seconds.labels(priority.label) for priority in Priority}
        self.claim_wait = self._histogram(
            "claim_wait_seconds", "How long slots waited for the trials that they got.", SECONDS
        )

    def _count_writes(self) -> None:
        self._commands = self._counter("commands", "Commands that were committed.", "kind", KINDS)
        self._batch_commands = self._histogram("batch_commands", "Commands in a transaction.", COMMANDS)
        self._batch_seconds = self._histogram("batch_seconds", "A transaction, commit included.", SECONDS)

    # --- as it happens ----------------------------------------------------------------------------

    def answered(self, status: int, priority: Priority | None, seconds: float) -> None:
        """Args:
        priority: of the route; None if there was none, or its requests hold no place.
        """
        self._answers[str(status) if status in TOLD_APART else f"{status // 100}xx"].inc()
        if priority is not None:
            self._seconds[priority].observe(seconds)

    def committed(self, commands: Sequence[Any], batch: Batch, seconds: float) -> None:
        """The writer's `on_batch`; called in its thread."""
        self._batch_commands.observe(len(commands))
        self._batch_seconds.observe(seconds)
        for command, outcome in zip(commands, batch.outcomes, strict=True):
            if isinstance(outcome, Exception) and not isinstance(outcome, Refused):
                continue
            self._commands[_snake(type(command))].inc()
            if isinstance(outcome, Ended) and isinstance(command, Finish):
                for brought in filter(None, (command.report, command.claim)):
                    self._commands[_snake(type(brought))].inc()
            if isinstance(outcome, LeaseLost | ClaimStale):
                self._fenced[_snake(type(command))].inc()
        for (cause, state), n in batch.moved.items():
            if state == "waiting":
                self._requeued[cause].inc(n)
            if cause in LOST:
                self._expiries[cause].inc(n)

    # --- when somebody asks -----------------------------------------------------------------------

    async def exposition(self, service: Service) -> bytes:
        """All of it, in Prometheus' text format. Raises: Unavailable when the database is away."""
        trials = await service.read_first(store.trial_counts)
        places, sweeper = service.places, service.sweeper
        disk = shutil.disk_usage(service.settings.home)
        for name, value in {
            "trials_waiting": trials.waiting,
            "trials_claimable": trials.claimable,
            "trials_running": trials.running,
            "claims_parked": len(service.room),
            "sweeper_age_seconds": sweeper.age_seconds,
            "planner_up": service.planner is not None and service.planner.is_alive,
            "disk_free_bytes": disk.free,
            "disk_reserve_bytes": service.disk.reserve(),
            "requests_in_flight": places.in_flight,
            "requests_waiting": places.waiting,
            "uploads_running": service.uploads.running,
            "writer_queue": service.writer.depth,
        }.items():
            self._gauges[name].set(value)
        pool = service.engine.pool
        if isinstance(pool, QueuePool):
            self._connections.labels("in_use").set(pool.checkedout())
            self._connections.labels("idle").set(pool.checkedin())
        self._note_shed(places.shed, places.refused_on_connection)
        return generate_latest(self._registry)

    def _note_shed(self, shed: Tally[Priority], quick: int) -> None:
        """Refusals are counted where they are made, as cheaply as can be, and taken over here."""
        for priority in Priority:
            self._shed[priority.label].inc(shed[priority] - self._told_shed[priority])
        self._answers["429"].inc(quick - self._told_quick)
        self._told_shed, self._told_quick = shed.copy(), quick


GAUGES = {
    "trials_waiting": "Trials that wait, of all studies.",
    "trials_claimable": "Those that a slot could be given now: of active studies, within max_concurrent.",
    "trials_running": "Trials that run.",
    "claims_parked": "Slots that wait here for a trial.",
    "sweeper_age_seconds": "Since expired leases were last looked for.",
    "planner_up": "Whether the planner process runs (1) or not (0).",
    "disk_free_bytes": "Free on the disk of the home directory.",
    "disk_reserve_bytes": "With less free than this, studies and uploads are refused.",
    "requests_in_flight": "Requests that hold a place.",
    "requests_waiting": "Requests that wait for one.",
    "uploads_running": "Uploads under way.",
    "writer_queue": "Commands that wait for the next transaction.",
}


def _snake(kind: type[Any]) -> str:
    """
    >>> from tunesmith_service.commands import CommitSnapshot
    >>> _snake(CommitSnapshot)
    'commit_snapshot'
    """
    return _NAMES[kind]


_NAMES = {kind: re.sub(r"(?<!^)(?=[A-Z])", "_", kind.__name__).lower() for kind in HANDLERS}
KINDS = sorted(_NAMES.values())
