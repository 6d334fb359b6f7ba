"""What a log decides, and whether a log's decisions were those.

The planner process and the check that replays a finished study call the same functions here, so a
decision that a restarted planner would not make again shows up as a difference.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from tunesmith_studies.diagnosis import of_stage
from tunesmith_studies.findings import Finding, gravest_first
from tunesmith_studies.log import Entry, StudyLog
from tunesmith_studies.planning import Done, History, Plan, Proposal, Proposals, Seed, StageResult
from tunesmith_studies.pruners import should_prune
from tunesmith_studies.stages import AnyStage
from tunesmith_studies.trial import IMPORTED, Trial


def ask(log: StudyLog, stage: AnyStage, n: int) -> Plan:
    """The stage's answer to what the log tells, stale drafts left out; n is the room for proposals. The
    result of a stage that is done gets what its trials' curves show."""
    history = log.history(stage.name)
    plan = stage.plan(history, n, Seed(log.study.seed))
    return Done(_diagnosed(stage, history, plan.result)) if isinstance(plan, Done) else plan


def _diagnosed(stage: AnyStage, history: History, result: StageResult) -> StageResult:
    try:
        shown = of_stage(stage, history, result)
    except Exception as error:  # a stage is worth more than its diagnosis
        told = f"The diagnosis of this stage raised {type(error).__name__}: {error}"
        shown = (Finding("diagnosis_failed", "info", told, next_step="Report it as a fault of Tunesmith."),)
    return replace(result, findings=gravest_first((*result.findings, *shown)))


def first_pruned_step(history: History, stage: AnyStage, trial: Trial, new: int) -> int | None:
    """The first of the trial's `new` newest points at which its stage's pruner stops it, or None."""
    if stage.pruner is None:
        return None
    for end in range(max(len(trial.curve) - new, 0) + 1, len(trial.curve) + 1):
        seen = replace(trial, curve=trial.curve[:end])
        if should_prune(stage.pruner, history, seen, Seed(history.study.seed)):
            return seen.curve[-1].step
    return None


def proposal_json(proposal: Proposal) -> dict[str, Any]:
    """A proposal as it is stored: params, work, start and sampler state."""
    return {
        "params": dict(proposal.params),
        "work": proposal.work.to_json(),
        "start": proposal.start.to_json() if proposal.start else None,
        "sampler_state": dict(proposal.sampler_state),
    }


def differences(spec: Mapping[str, Any], entries: Sequence[Entry]) -> Iterator[str]:
    """Replay a log: a sentence for each decision that its log, cut where it was made, does not give.

    Every proposal and redraw of a stage is asked for again from the entries up to its `planned_at`
    and compared to the byte; every prune verdict is asked for again at its report. Trials that a
    person enqueued or brought along are no decisions of ours.
    """
    made = [e for e in entries if _is_decision(e)]
    most = Counter(e.stage for e in entries if e.kind == "planned")
    keys = {e.trial: (e.stage, e.data["key"]) for e in entries if e.kind == "planned"}
    together = Counter((e.stage, e.data["planned_at"]) for e in made if e.kind != "moved")
    reports = {e.n: e for e in entries if e.kind == "reported"}
    log = StudyLog(spec)
    unread = iter(entries)
    upcoming = next(unread, None)
    for entry in sorted(made, key=lambda e: e.data["planned_at"]):
        while upcoming is not None and upcoming.n <= entry.data["planned_at"]:
            log.apply(upcoming)
            upcoming = next(unread, None)
        stage_name, key = keys[entry.trial]
        assert stage_name is not None
        if entry.kind == "moved":
            yield from _verdict_differs(log, entry, reports[entry.data["planned_at"]])
        else:
            room = together[entry.stage, entry.data["planned_at"]] + len(log.stale(stage_name))
            yield from _proposal_differs(log, entry, key, room, most[stage_name])


def _is_decision(entry: Entry) -> bool:
    if entry.kind == "moved":
        return entry.data.get("planned_at") is not None
    if entry.kind == "planned":
        return not entry.data.get("hand") and not entry.data["key"].startswith(IMPORTED)
    return entry.kind == "redrawn"


def _proposal_differs(log: StudyLog, entry: Entry, key: str, room: int, most: int) -> Iterator[str]:
    stage = log.stage(entry.stage or "")
    found = _proposed(log, stage, key, room) or _proposed(log, stage, key, room + most)
    if found is None:
        yield f"event {entry.n}: {stage.name} does not propose {key} at event {entry.data['planned_at']}"
        return
    again = proposal_json(found)
    for name in ("params", "sampler_state") if entry.kind == "redrawn" else tuple(again):
        stored, now = _bytes(entry.data[name]), _bytes(again[name])
        if stored != now:
            yield f"event {entry.n}: {name} of {key} was {stored!r}, replayed {now!r}"


def _proposed(log: StudyLog, stage: AnyStage, key: str, room: int) -> Proposal | None:
    """What the stage proposes under this key if there is so much room.

    How much there was is not in the log. Usually as much as was queued; more, if another server had
    queued the first of them already, or the database was away for a moment.
    """
    plan = ask(log, stage, room)
    return {p.key: p for p in plan.items}.get(key) if isinstance(plan, Proposals) else None


def _verdict_differs(log: StudyLog, entry: Entry, report: Entry) -> Iterator[str]:
    trial = log.trial(entry.trial or 0)
    stage = log.stage(trial.stage)
    step = first_pruned_step(log.history(stage.name), stage, trial, len(report.data["points"]))
    if step != entry.data["step"]:
        yield f"event {entry.n}: trial {trial.number} was pruned at {entry.data['step']}, replayed {step}"


def _bytes(value: Any) -> bytes:
    return json.dumps(value, sort_keys=True).encode()
