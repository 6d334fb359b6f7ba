"""A study of one TPE stage whose service is this file: planned by the planner's own code, in virtual time.

The log is the one that a service would write, and `StudyPlanner` reads it and decides as in its process.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Any

from tunesmith_service.planner import MANY, StudyPlanner
from tunesmith_studies.log import Entry
from tunesmith_studies.planning import Seed
from tunesmith_studies.space import Params, Space
from tunesmith_studies.stages.random import point_key
from tunesmith_studies.study import StudySpec

STAGE = "tpe"
EPOCHS = 5
WORK = {"epochs": EPOCHS, "seed": 1}
TPE: dict[str, Any] = {"kind": "tpe", "n_startup_trials": 10}


class VirtualStudy:
    """Its log, and a planner that has read it up to a moment of its own.

    Args:
        trials: of the stage.
        pruner: of the stage, or None.
    """

    def __init__(
        self, space: Mapping[str, Any], trials: int, seed: int = 0, pruner: Mapping[str, Any] | None = None
    ) -> None:
        stage = {"kind": "sampler", "name": STAGE, "epochs": EPOCHS, "trials": trials, "sampler": TPE}
        written = {"name": "virtual", "task": "light", "space": space, "seed": seed, "stages": [stage]}
        if pruner is not None:
            stage["pruner"] = dict(pruner)
        self.spec = StudySpec.from_json(written)
        self.planner = StudyPlanner(self.spec.to_json())
        self._unread: list[Entry] = []
        self.at = 0
        self.put("stage", state="active", reason=None, result=None)

    @property
    def space(self) -> Space:
        return self.spec.space

    def put(self, kind: Any, trial: int | None = None, **data: Any) -> int:
        """Write the next entry. Returns: its number."""
        self.at += 1
        self._unread.append(Entry(self.at, kind, trial, STAGE, data))
        return self.at

    def decide(self, slots: int, drafts: int = MANY) -> list[dict[str, Any]]:
        """What the planner says to all that has been written."""
        entries, self._unread = self._unread, []
        self.planner.feed(entries)
        return [*self.planner.verdicts(), *self.planner.decide(slots, drafts)]

    def propose(self, said: Mapping[str, Any], number: int) -> None:
        names = ("key", "ordinal", "params", "work", "planned_at", "draft", "sampler_state")
        self.put("planned", number, **{name: said[name] for name in names})

    def redraw(self, said: Mapping[str, Any]) -> None:
        names = ("params", "planned_at", "sampler_state")
        self.put("redrawn", said["trial"], **{name: said[name] for name in names})

    def start(self, number: int) -> None:
        self.put("moved", number, **{"from": "waiting"}, to="running", attempt=1)

    def report(self, number: int, step: int, value: float) -> None:
        points = [{"step": step, "metrics": {"val/loss": value}}]
        self.put("reported", number, attempt=1, seq=step, points=points)

    def end(self, number: int, value: float | None) -> int:
        """Complete with this value; None: diverged. Returns: the event's number."""
        state, reason = ("complete", "budget") if value is not None else ("pruned", "diverged")
        return self.put(
            "moved", number, **{"from": "running"}, to=state, attempt=1, stop_reason=reason, value=value
        )


def seed_of(study: VirtualStudy, ordinal: int) -> int:
    """What the stage draws this trial's proposal from."""
    return Seed(study.spec.seed).stream(STAGE, ordinal)


def random_points(space: Space, many: int, seed: int) -> list[Params]:
    """Uniform on the parameters' own scales."""
    draw = random.Random(seed)
    return [{name: p.value(draw.random()) for name, p in space.items()} for _ in range(many)]


def proposal_of(ordinal: int, params: Params) -> dict[str, Any]:
    """A proposal that no planner made, to fill a study with."""
    return {
        "key": point_key(ordinal), "ordinal": ordinal, "params": params, "work": WORK, "planned_at": 0,
        "draft": True, "sampler_state": {},
    }  # fmt: skip
