"""A study's event log, and the history that it tells.

The service writes an entry for every proposal, change of state, report, and snapshot that comes or
goes, and gives each a number `n` under the study's row lock: 1, 2, 3, … without gaps. `StudyLog` folds
entries into the histories that stages plan from. The planner process feeds it increments; a test
that replays a decision feeds it the log cut at the proposal's `planned_at`. It is the same fold.

What `data` holds, by kind (JSON; non-finite numbers as "NaN", "Infinity", "-Infinity"):
  study      {state, reason, cloned_from}     `cloned_from` (a study's id) when it is created as a clone
  stage      {state, reason, result, spec, override}    the stage named by `stage` was created or changed;
             `spec` (the stage as JSON) when it is created, `result` once it is done or failed,
             `override` ({reason, actor, at_us}) when the study goes on past a result that blocks
  planned    {key, ordinal, params, work, start, sampler_state, planned_at, draft, hand, retry_of,
             variant_of}
  redrawn    {params, sampler_state, planned_at, old_params, old_planned_at}
  moved      {from, to, attempt, cause, stop_reason, value, resume_step}
             to running: the points after `resume_step` (0 without a snapshot) are thrown away
  reported   {attempt, seq, points: [{step, metrics}]}
  snapshot   {step, attempt}                  committed
  test_read  {nth}                            it reported what it read of the test split: the nth such
             read of this task's test split in its project
  forgotten  {step}                           no attempt's snapshot of this step has its bytes any more
A key that is missing is None. Stages of the study's own specification are pending until an entry
says otherwise; a stage that the specification lacks joins it, last, with the `spec` of its entry.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from pydantic import TypeAdapter

from tunesmith_studies.packed import packed
from tunesmith_studies.planning import Earlier, History, StageResult
from tunesmith_studies.stages import AnyStage
from tunesmith_studies.study import StudySpec
from tunesmith_studies.trial import Point, StageState, Start, StopReason, Trial, TrialState, Work

EntryKind = Literal[
    "study", "stage", "planned", "redrawn", "moved", "reported", "snapshot", "test_read", "forgotten"
]

_A_STAGE: TypeAdapter[AnyStage] = TypeAdapter(AnyStage)


@dataclass(frozen=True, slots=True)
class Entry:
    """One line of a study's log.

    Attributes:
        n: its number within the study.
        kind: what happened; see the module's table for `data`.
        trial: number of the trial it is about, or None.
        stage: name of the stage it is about, or None.
    """

    n: int
    kind: EntryKind
    trial: int | None
    stage: str | None
    data: Mapping[str, Any]


@dataclass(slots=True)
class _StageLog:
    """What the log has told about one stage so far."""

    stage: AnyStage
    state: StageState = StageState.PENDING
    result: StageResult | None = None
    trials: list[Trial] = field(default_factory=list)
    drafts: set[int] = field(default_factory=set)  # places in `trials` of drafts that wait
    running: set[int] = field(default_factory=set)  # places in `trials`
    last_end: int = 0  # event that last ended a trial of this stage
    history: History | None = None  # of this moment; None once something has changed


class StudyLog:
    """Folds a study's entries. One entry costs a time that does not grow with the study.

    Args:
        spec: the study's specification as JSON, as `StudySpec.to_json` gives it.
    """

    def __init__(self, spec: Mapping[str, Any]) -> None:
        self.study = StudySpec.from_json(spec)
        self.at = 0
        self._stages = {stage.name: _StageLog(stage) for stage in self.study.stages}
        self._where: dict[int, tuple[str, int]] = {}  # trial number → stage, place in its list

    # --- reading ----------------------------------------------------------------------------------

    def stage(self, name: str) -> AnyStage:
        return self._stages[name].stage

    def stage_state(self, name: str) -> StageState:
        return self._stages[name].state

    def active_stages(self) -> tuple[AnyStage, ...]:
        """Stages to plan now, in the study's order."""
        return tuple(s.stage for s in self._stages.values() if s.state is StageState.ACTIVE)

    def trial(self, number: int) -> Trial:
        stage, place = self._where[number]
        return self._stages[stage].trials[place]

    def trials(self, stage: str) -> tuple[Trial, ...]:
        """All trials of a stage in order of number, stale drafts among them."""
        return tuple(self._stages[stage].trials)

    def running(self, stage: str) -> tuple[Trial, ...]:
        log = self._stages[stage]
        return tuple(log.trials[place] for place in sorted(log.running))

    def stale(self, stage: str) -> tuple[Trial, ...]:
        """Waiting drafts that did not see the newest end of a trial of their stage."""
        log = self._stages[stage]
        return tuple(log.trials[place] for place in self._stale_places(log))

    def history(self, stage: str) -> History:
        """What that stage plans from now: stale drafts are left out, as if never proposed."""
        log = self._stages[stage]
        if log.history is None:
            stale = set(self._stale_places(log))
            seen = log.trials if not stale else [t for i, t in enumerate(log.trials) if i not in stale]
            log.history = History(self.study, tuple(seen), self._earlier(stage), self.at)
        elif log.history.at != self.at:
            log.history = replace(log.history, at=self.at)
        return log.history

    def _stale_places(self, log: _StageLog) -> list[int]:
        return [i for i in sorted(log.drafts) if log.trials[i].planned_at < log.last_end]

    def _earlier(self, stage: str) -> Mapping[str, Earlier]:
        earlier: dict[str, Earlier] = {}
        for name, log in self._stages.items():
            if name == stage:
                break
            if log.result is not None:
                earlier[name] = Earlier(log.stage, tuple(log.trials), log.result)
        return earlier

    # --- folding ----------------------------------------------------------------------------------

    def apply(self, entry: Entry) -> None:
        """Fold the next entry. Raises ValueError if one is missing before it."""
        if entry.n != self.at + 1:
            raise ValueError(f"event {entry.n} does not follow event {self.at}: the log has a gap")
        self.at = entry.n
        if entry.kind == "stage":
            self._fold_stage(entry)
        elif entry.kind == "planned":
            self._fold_planned(entry)
        elif entry.kind != "study":
            assert entry.trial is not None, f"event {entry.n} ({entry.kind}) names no trial"
            stage, place = self._where[entry.trial]
            log = self._stages[stage]
            log.trials[place] = _FOLDS[entry.kind](log.trials[place], entry)
            self._note(log, place, entry)

    def _fold_stage(self, entry: Entry) -> None:
        name = entry.stage or ""
        if name not in self._stages:
            added = _A_STAGE.validate_python(entry.data["spec"])
            self._stages[name] = _StageLog(added)
            self.study = self.study.model_copy(update={"stages": (*self.study.stages, added)})
        log = self._stages[name]
        log.state = StageState(entry.data["state"])
        if log.state is StageState.ACTIVE and log.stage.ranges:
            self._widen(log.stage.ranges)
        if entry.data.get("result") is not None:
            log.result = StageResult.from_json(entry.data["result"])
            if past := log.result.chosen.get("widened"):  # the border rule: later stages look there too
                self._widen(past)
        for other in self._stages.values():  # results and the list of stages stand in every history
            other.history = None

    def _widen(self, ranges: Mapping[str, Sequence[float]]) -> None:
        self.study = self.study.model_copy(update={"space": self.study.space.widened(ranges)})

    def _fold_planned(self, entry: Entry) -> None:
        assert entry.trial is not None, f"event {entry.n} plans no trial"
        assert entry.stage is not None, f"event {entry.n} plans for no stage"
        data, log = entry.data, self._stages[entry.stage]
        start = data.get("start")
        trial = Trial(
            number=entry.trial,
            stage=entry.stage,
            key=data["key"],
            ordinal=data["ordinal"],
            params=data["params"],
            work=Work.from_json(data["work"]),
            start=Start(start["trial"], start["step"]) if start else None,
            sampler_state=data.get("sampler_state") or {},
            planned_at=data.get("planned_at") or 0,
            draft=bool(data.get("draft")),
        )
        self._where[trial.number] = (trial.stage, len(log.trials))
        log.trials.append(trial)
        self._note(log, len(log.trials) - 1, entry)

    def _note(self, log: _StageLog, place: int, entry: Entry) -> None:
        """Keep the stage's small sets true after the trial at `place` changed."""
        trial = log.trials[place]
        log.history = None
        _keep(log.drafts, place, trial.draft and trial.state is TrialState.WAITING)
        _keep(log.running, place, trial.state is TrialState.RUNNING)
        if trial.ended_at == entry.n:
            log.last_end = entry.n
        # Stages after this one may hold its trials in their histories: a late end, a hand trial.
        if log.result is not None:
            for other in self._stages.values():
                other.history = None


def _keep(places: set[int], place: int, belongs: bool) -> None:
    if belongs:
        places.add(place)
    else:
        places.discard(place)


def _redrawn(trial: Trial, entry: Entry) -> Trial:
    data = entry.data
    return replace(
        trial,
        params=data["params"],
        sampler_state=data.get("sampler_state") or {},
        planned_at=data["planned_at"],
    )


def _moved(trial: Trial, entry: Entry) -> Trial:
    data = entry.data
    state = TrialState(data["to"])
    if state is TrialState.RUNNING:
        resumed_at = data.get("resume_step") or 0
        kept = tuple(p for p in trial.curve if p.step <= resumed_at)
        # what has run is no draft any more: redrawing it would mix two curves
        return replace(trial, state=state, curve=kept, draft=False)
    if not state.is_finished:
        return replace(trial, state=state)
    reason = data.get("stop_reason")
    return replace(
        trial,
        state=state,
        stop_reason=StopReason(reason) if reason else None,
        value=data.get("value"),
        ended_at=entry.n,
        curve=packed(trial.curve),
    )


def _reported(trial: Trial, entry: Entry) -> Trial:
    new = tuple(
        Point(p["step"], {name: float(value) for name, value in p["metrics"].items()})
        for p in entry.data["points"]
    )
    return replace(trial, curve=(*trial.curve, *new))


def _snapshot(trial: Trial, entry: Entry) -> Trial:
    return replace(trial, snapshots=tuple(sorted({*trial.snapshots, entry.data["step"]})))


def _forgotten(trial: Trial, entry: Entry) -> Trial:
    return replace(trial, snapshots=tuple(s for s in trial.snapshots if s != entry.data["step"]))


def _test_read(trial: Trial, entry: Entry) -> Trial:
    return replace(trial, test_read=entry.data["nth"])


_FOLDS = {
    "redrawn": _redrawn,
    "moved": _moved,
    "reported": _reported,
    "snapshot": _snapshot,
    "test_read": _test_read,
    "forgotten": _forgotten,
}
