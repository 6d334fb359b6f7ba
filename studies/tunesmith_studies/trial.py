"""A trial as planning sees it: frozen values, its states and its legal moves.

Nothing here needs Optuna, so workers may import it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Literal

from tunesmith_studies.space import Scalar

HAND = "hand:"
"""The key of a trial that a person enqueued begins with this."""

IMPORTED = "import:"
"""The key of a trial that was run elsewhere begins with this; its number there follows."""


class TrialState(StrEnum):
    """Optuna's names where it has them. `paused` joins when a stage reaches it."""

    WAITING = "waiting"
    RUNNING = "running"
    COMPLETE = "complete"
    PRUNED = "pruned"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def is_finished(self) -> bool:
        return self not in (TrialState.WAITING, TrialState.RUNNING)


class StopReason(StrEnum):
    """Why a finished trial stopped where it did."""

    BUDGET = "budget"
    EARLY_STOPPING = "early_stopping"
    PLATEAU = "plateau"
    PRUNED = "pruned"
    DIVERGED = "diverged"
    ERROR = "error"
    CANCELLED = "cancelled"


MOVES: frozenset[tuple[TrialState, TrialState]] = frozenset(
    {
        (TrialState.WAITING, TrialState.RUNNING),
        (TrialState.WAITING, TrialState.CANCELLED),
        (TrialState.RUNNING, TrialState.WAITING),
        (TrialState.RUNNING, TrialState.COMPLETE),
        (TrialState.RUNNING, TrialState.PRUNED),
        (TrialState.RUNNING, TrialState.FAILED),
        (TrialState.RUNNING, TrialState.CANCELLED),
    }
)
"""Every legal change of a trial's state; all else is refused by guard, trigger and CHECK."""


class StageState(StrEnum):
    PENDING = "pending"
    ACTIVE = "active"
    DONE = "done"
    SKIPPED = "skipped"
    FAILED = "failed"


class StudyState(StrEnum):
    ACTIVE = "active"
    PAUSED = "paused"
    COMPLETE = "complete"
    STOPPED = "stopped"


@dataclass(frozen=True, slots=True)
class Point:
    """What a worker reported after one step of a trial's budget.

    Attributes:
        step: epochs done, counted from the start of the whole run (a trial that goes on from a
            snapshot of epoch 5 reports 6 first); optimizer steps where `Work.unit` says so, and then
            `sys/epoch` is the epochs done, with a fraction.
        metrics: by name, such as `val/loss` in nats per example; may hold NaN and infinities.
    """

    step: int
    metrics: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Start:
    """Where a trial goes on from: the committed snapshot of another trial."""

    trial: int  # its number in the study
    step: int

    def to_json(self) -> dict[str, int]:
        return {"trial": self.trial, "step": self.step}

    @classmethod
    def from_json(cls, data: Mapping[str, int]) -> Start:
        return cls(data["trial"], data["step"])


WorkKind = Literal["train", "preflight", "range_test", "evaluate"]


@dataclass(frozen=True, slots=True)
class Work:
    """How long and how a trial trains or measures, beside its hyperparameters.

    Attributes:
        epochs: train until this many epochs are done, those before `start` included; with `steps`
            or `seconds` the most there may be.
        seed: of weights and data order; a trial that starts from a snapshot keeps the snapshot's.
        kind: `train` gives an objective. The others measure, and what they report is for the stage
            that planned them: they have no value and rank nowhere.
        data_fraction: share of the training split to use, in (0, 1].
        steps: train until this many optimizer steps are done.
        seconds: train until this much time was spent in training, evaluations left out.
        validate_every: evaluate after every so many optimizer steps, as well as after each epoch; 0: not.
        fold: (i, k): train on all but the i-th of k parts of training and validation split, validate
            on that part.
        stop_at_plateau: end when the objective's metric plateaus (`curves.plateaued`).
        keep_snapshot: upload a snapshot at the end; a pending stage may go on from it.
        inspect: leave what people look at as artifacts: confusion matrix, predictions, worst mistakes.
        members: of `evaluate`: the snapshots whose models it evaluates, alone and averaged.
        read_test: may read the test split, and report under `test/`.
        options: of the measuring kinds; each stage says which.
    """

    epochs: int
    seed: int
    kind: WorkKind = "train"
    data_fraction: float = 1.0
    steps: int | None = None
    seconds: float | None = None
    validate_every: int = 0
    fold: tuple[int, int] | None = None
    stop_at_plateau: bool = False
    keep_snapshot: bool = False
    inspect: bool = False
    members: tuple[Start, ...] = ()
    read_test: bool = False
    options: Mapping[str, Scalar] = field(default_factory=dict)

    @property
    def unit(self) -> Literal["epoch", "step"]:
        """What a point's and a snapshot's `step` counts."""
        by_steps = self.steps is not None or self.seconds is not None or self.validate_every
        return "step" if by_steps or self.kind != "train" else "epoch"

    def to_json(self) -> dict[str, Any]:
        """What is as usual is left out: most trials need two numbers."""
        found: dict[str, Any] = {"epochs": self.epochs, "seed": self.seed}
        for name, usual in _USUAL.items():
            value = getattr(self, name)
            if value != usual:
                found[name] = value
        if self.fold is not None:
            found["fold"] = list(self.fold)
        if self.members:
            found["members"] = [m.to_json() for m in self.members]
        if self.options:
            found["options"] = dict(self.options)
        return found

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Work:
        """The inverse of `to_json`; what is missing has its default, what is unknown is left out."""
        known = {k: data[k] for k in cls.__dataclass_fields__ if k in data}
        if known.get("fold") is not None:
            known["fold"] = tuple(known["fold"])
        known["members"] = tuple(Start.from_json(m) for m in known.get("members") or ())
        return cls(**known)


_USUAL: Mapping[str, Any] = {
    "kind": "train", "data_fraction": 1.0, "steps": None, "seconds": None, "validate_every": 0,
    "stop_at_plateau": False, "keep_snapshot": False, "inspect": False, "read_test": False,
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Trial:
    """One trial as the event log tells it up to some event.

    Attributes:
        number: 0, 1, 2, … within the study.
        stage: name of its stage.
        key: unique within the stage (cell, branch value, ordinal); `hand:n` if a person enqueued it,
            `import:n` if it was run elsewhere.
        ordinal: its index within the stage.
        params: every hyperparameter, those fixed by the study included.
        value: the objective, once complete; finite.
        curve: points in order of step, without those that a resumed attempt has thrown away.
        snapshots: steps of committed snapshots, ascending.
        planned_at: number of the last event its proposal saw.
        draft: proposed by a model; redrawn while it waits.
        ended_at: number of the event that finished it, or None.
        test_read: it read the test split, and was the nth in its project to read this task's; or None.
    """

    number: int
    stage: str
    key: str
    ordinal: int
    params: Mapping[str, Scalar]
    work: Work
    state: TrialState = TrialState.WAITING
    stop_reason: StopReason | None = None
    start: Start | None = None
    value: float | None = None
    curve: Sequence[Point] = ()
    snapshots: tuple[int, ...] = ()
    sampler_state: Mapping[str, Any] = field(default_factory=dict)
    planned_at: int = 0
    draft: bool = False
    ended_at: int | None = None
    test_read: int | None = None

    @property
    def by_hand(self) -> bool:
        """Enqueued by a person: it counts in a stage's ranking and never keeps the stage waiting."""
        return self.key.startswith(HAND)

    @property
    def is_imported(self) -> bool:
        """Run elsewhere; one of them that is tried again here is not."""
        return self.key.startswith(IMPORTED) and "/retry:" not in self.key

    @property
    def is_diverged(self) -> bool:
        return self.stop_reason is StopReason.DIVERGED

    @property
    def epochs_run(self) -> float:
        """Epochs that this trial itself trained and kept: passes over the training split. Of a trial that
        counts steps, as its newest `sys/epoch` says."""
        if self.work.unit == "step":
            return next((p.metrics["sys/epoch"] for p in self.curve[::-1] if "sys/epoch" in p.metrics), 0.0)
        last = self.curve[-1].step if self.curve else (self.start.step if self.start else 0)
        return last - (self.start.step if self.start else 0)

    def metric(self, name: str) -> list[tuple[int, float]]:
        """(step, value) of one metric, in order; steps that lack it are left out."""
        return [(p.step, p.metrics[name]) for p in self.curve if name in p.metrics]
