"""Runs a study in this process: the product's own planning and trainer, without service or database.

For benchmarks that compare what searches find, where hundreds of trainings matter and HTTP does not.
The log is kept as the service keeps it, so what is planned is what the service would plan.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from tunesmith_service.wire import WorkOrder, show_number
from tunesmith_studies.curves import objective_value
from tunesmith_studies.decisions import ask, proposal_json
from tunesmith_studies.log import Entry, EntryKind, StudyLog
from tunesmith_studies.planning import Done, Proposal, Proposals, StageResult
from tunesmith_studies.study import StudySpec
from tunesmith_studies.trial import Trial, TrialState
from tunesmith_workers import kinds
from tunesmith_workers.endings import Artifact, Ending, Said, Saved
from tunesmith_workers.tasks.registry import Entry as TaskEntry

CPU = torch.device("cpu")


class LocalStudy:
    """One study, one slot. `run` goes on until every stage has ended, or until `enough` says so."""

    def __init__(self, spec: dict[str, Any], task: TaskEntry, scratch: Path) -> None:
        self.spec = StudySpec.model_validate(spec)
        self.log = StudyLog(self.spec.to_json())
        self.task, self.scratch = task, scratch
        self._snapshots: dict[tuple[int, int], Path] = {}
        self._trials = 0
        self.results: dict[str, StageResult] = {}

    def run(self, enough: Callable[[StudyLog], bool] = lambda log: False) -> None:
        for stage in self.spec.stages:
            self._note("stage", None, stage.name, state="active")
            while not enough(self.log):
                plan = ask(self.log, self.log.stage(stage.name), 1)
                if isinstance(plan, Done):
                    result = self.results[stage.name] = plan.result
                    state = "failed" if result.failed else "done"
                    self._note("stage", None, stage.name, state=state, result=result.to_json())
                    break
                assert isinstance(plan, Proposals), plan
                self._train(stage.name, plan.items[0])

    def _note(self, kind: EntryKind, trial: int | None, stage: str, **data: Any) -> None:
        self.log.apply(Entry(self.log.at + 1, kind, trial, stage, data))

    def _train(self, stage: str, proposal: Proposal) -> None:
        number, self._trials = self._trials, self._trials + 1
        planned = {
            "key": proposal.key, "ordinal": proposal.ordinal, **proposal_json(proposal),
            "planned_at": self.log.at, "draft": False, "hand": False, "retry_of": None,
        }  # fmt: skip
        self._note("planned", number, stage, **planned)
        step = proposal.start.step if proposal.start else 0
        self._note(
            "moved", number, stage, **{"from": "waiting", "to": "running"}, attempt=1, resume_step=step
        )
        ending = self._say(number, stage, proposal)
        value = None
        measures = proposal.work.kind != "train"
        if ending.state == "complete" and not measures:
            value = objective_value(self.log.trial(number).curve, self.spec.objective)
        missing = ending.state == "complete" and value is None and not measures
        to = "pruned" if missing else ending.state
        reason = ending.stop_reason if to == ending.state else "diverged"
        moved = {"from": "running", "to": to, "attempt": 1, "stop_reason": reason, "value": value}
        self._note("moved", number, stage, **moved)

    def _say(self, number: int, stage: str, proposal: Proposal) -> Ending:
        start = proposal.start
        resume = self._snapshots[start.trial, start.step] if start else None
        for seq, said in enumerate(self._epochs(number, stage, proposal, resume), start=1):
            if isinstance(said, Ending):
                return said
            if isinstance(said, Saved):
                self._snapshots[number, said.step] = said.file.path
                self._note("snapshot", number, stage, step=said.step, attempt=1)
            elif not isinstance(said, Artifact):
                metrics = {k: show_number(float(v)) for k, v in said.metrics.items()}
                points = [{"step": said.step, "metrics": metrics}]
                self._note("reported", number, stage, attempt=1, seq=seq, points=points)
        raise AssertionError("a training ends with an Ending")

    def _epochs(self, number: int, stage: str, proposal: Proposal, resume: Path | None) -> Iterator[Said]:
        scratch = self.scratch / str(number)
        scratch.mkdir(parents=True, exist_ok=True)
        members = [self._snapshots[m.trial, m.step] for m in proposal.work.members]
        order = self._order(number, stage, proposal)
        yield from kinds.run(self.task, order, kinds.Place(CPU, scratch, resume, members))

    def _order(self, number: int, stage: str, proposal: Proposal) -> WorkOrder:
        return WorkOrder(
            study=self.spec.name, stage=stage, number=number, task=self.spec.task,
            params=dict(proposal.params), metric=self.spec.objective.metric,
            direction=self.spec.objective.direction, snapshot_every_seconds=math.inf,
            **{k: v for k, v in proposal.work.to_json().items() if k != "members"},
        )  # fmt: skip


def complete(log: StudyLog, stage: str) -> list[Trial]:
    return [t for t in log.trials(stage) if t.state is TrialState.COMPLETE]
