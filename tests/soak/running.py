"""How many trials of a study ran at once, as somebody saw who looked all the time, and by its log."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field

from invariants import FINAL, Seen, most_running
from sqlalchemy import Engine, func, select
from tunesmith_service import tables

LOOK_SECONDS = 0.1


@dataclass
class Running:
    """Looks again and again. `most` has the highest seen of each study, by its id."""

    engine: Engine
    most: dict[int, int] = field(default_factory=dict)
    looks: int = 0

    async def watch(self) -> None:
        """Until cancelled."""
        while True:
            with contextlib.suppress(Exception):  # the database is away
                for study, running in (await asyncio.to_thread(self._look)).items():
                    self.most[study] = max(running, self.most.get(study, 0))
                self.looks += 1
            await asyncio.sleep(LOOK_SECONDS)

    def _look(self) -> dict[int, int]:
        t = tables.trials.c
        wanted = select(t.study_id, func.count()).where(t.state == "running").group_by(t.study_id)
        with self.engine.connect() as conn:
            return dict(conn.execute(wanted).tuples().all())


@dataclass(frozen=True, slots=True)
class Limited:
    """A study with a limit, and how many of its trials ran at once at most."""

    study: str
    most: int
    polled: int
    logged: int


def limited(seen: Seen, running: Running) -> list[dict[str, int | str]]:
    """Of each study that has `max_concurrent`."""
    found = []
    for study in seen.rows["studies"]:
        most = (study.spec.get("limits") or {}).get("max_concurrent")
        if most is not None:
            logged = most_running(seen.logs[study.id])
            found.append(asdict(Limited(study.name, most, running.most.get(study.id, 0), logged)))
    return found


def finished_twice(seen: Seen) -> Iterator[str]:
    """Trials that came to an end more than once, by the log or by what their workers were told."""
    ends = Counter(
        event.trial_id for event in seen.rows["events"] if event.kind == "moved" and event.data["to"] in FINAL
    )
    told: dict[int, set[int]] = {}
    for call in seen.calls:
        if call.ok and call.what == "finish" and call.lease and call.body["state"] == "complete":
            told.setdefault(call.lease.trial_id, set()).add(call.lease.attempt)
    for trial in {*ends, *told}:
        if ends[trial] > 1 or len(told.get(trial, ())) > 1:
            yield f"trial id {trial} ended {ends[trial]} times; told so were attempts {told.get(trial)}"
