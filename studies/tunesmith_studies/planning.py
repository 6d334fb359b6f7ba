"""What every stage answers: `plan(stage, history, n, seed) -> Proposals | Wait | Done`.

A stage is a pure answer to a history. It keeps nothing between calls, so a restarted service goes
on where it was and a test is a list and an assert. What is left to do is found by the keys that
are missing from the history, never by counting: a person may have enqueued a trial by hand.

The contract, which `tests/contracts.py` holds every stage to:
  * same stage, history, n and seed, same answer, to the byte;
  * `plan(h, n)` begins with `plan(h, m)` for m < n;
  * no proposal's key stands in the history or twice in the answer;
  * it ends: after finitely many trials, whatever became of them, it says Done.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeAlias

from tunesmith_studies.findings import Finding
from tunesmith_studies.space import Scalar
from tunesmith_studies.trial import Start, StopReason, Trial, TrialState, Work

if TYPE_CHECKING:
    from tunesmith_studies.stages.base import Stage
    from tunesmith_studies.study import StudySpec


@dataclass(frozen=True, slots=True)
class Proposal:
    """A trial worth running. `params` are complete, fixed ones included."""

    key: str
    ordinal: int
    params: Mapping[str, Scalar]
    work: Work
    start: Start | None = None
    sampler_state: Mapping[str, Any] = field(default_factory=dict)  # ≤ 4 KiB of JSON


@dataclass(frozen=True, slots=True)
class Proposals:
    """Trials to queue, in this order. `draft` ones are redrawn whenever a trial finishes."""

    items: tuple[Proposal, ...]
    draft: bool = False


@dataclass(frozen=True, slots=True)
class Wait:
    """Nothing to add until something in the history changes."""

    reason: str


@dataclass(frozen=True, slots=True)
class Ranked:
    """A trial's place in a stage's result: its number and objective."""

    trial: int
    value: float


@dataclass(frozen=True, slots=True)
class StageResult:
    """What a stage leaves to those after it, and why.

    Attributes:
        ranking: best first; only complete trials with a finite objective.
        why: one or two sentences with the numbers behind the choice, for people.
        chosen: what later stages or people use, such as picked values and ranges; JSON.
        numbers: figures behind `why`, such as epochs spent; JSON.
        failed: nothing to rank, so stages that build on this one cannot run.
        findings: what the stage's trials showed, the gravest first.
        blocks: it failed and the study shall wait until a person overrides it with a reason.
    """

    ranking: tuple[Ranked, ...]
    why: str
    chosen: Mapping[str, Any] = field(default_factory=dict)
    numbers: Mapping[str, Any] = field(default_factory=dict)
    failed: bool = False
    findings: tuple[Finding, ...] = ()
    blocks: bool = False

    def to_json(self) -> dict[str, Any]:
        return {
            "ranking": [{"trial": r.trial, "value": r.value} for r in self.ranking],
            "why": self.why,
            "chosen": dict(self.chosen),
            "numbers": dict(self.numbers),
            "failed": self.failed,
            "findings": [f.to_json() for f in self.findings],
            "blocks": self.blocks,
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> StageResult:
        ranking = tuple(Ranked(trial=r["trial"], value=r["value"]) for r in data["ranking"])
        rest = {k: data[k] for k in ("why", "chosen", "numbers", "failed")}
        findings = tuple(Finding.from_json(f) for f in data.get("findings", ()))
        return cls(ranking=ranking, findings=findings, blocks=data.get("blocks", False), **rest)


@dataclass(frozen=True, slots=True)
class Done:
    result: StageResult


@dataclass(frozen=True, slots=True)
class Earlier:
    """A finished stage that a later one builds on."""

    stage: Stage
    trials: tuple[Trial, ...]
    result: StageResult

    def best(self, top: int) -> tuple[Trial, ...]:
        """Its best `top` trials, best first."""
        by_number = {t.number: t for t in self.trials}
        return tuple(by_number[r.trial] for r in self.result.ranking[:top])


@dataclass(frozen=True, slots=True)
class History:
    """All that planning may know, as the event log tells it up to event `at`.

    Attributes:
        study: the specification.
        trials: of this stage, in order of number, without stale drafts.
        earlier: finished stages that left a result, in the study's order, by name.
        at: number of the newest event seen.
    """

    study: StudySpec
    trials: tuple[Trial, ...] = ()
    earlier: Mapping[str, Earlier] = field(default_factory=dict)
    at: int = 0

    @property
    def keys(self) -> frozenset[str]:
        return frozenset(t.key for t in self.trials)

    @property
    def unfinished(self) -> tuple[Trial, ...]:
        return tuple(t for t in self.trials if not t.state.is_finished)

    def by_key(self) -> dict[str, Trial]:
        """By planned key; a trial that was tried again (`key/retry:n`) is told by its newest try."""
        return {t.key.partition("/retry:")[0]: t for t in self.trials}

    def source_of(self, stage: Stage) -> Earlier | None:
        """The stage that `stage` builds on: the one it names, or the last that ranked something."""
        if stage.source is not None:
            return self.earlier.get(stage.source)
        ranked = [e for e in self.earlier.values() if e.result.ranking]
        return ranked[-1] if ranked else None


Plan: TypeAlias = Proposals | Wait | Done


@dataclass(frozen=True, slots=True)
class Seed:
    """A study's seed, and the streams drawn from it.

    Sequences (Sobol, Halton) draw from (study, stage), all else from (study, stage, ordinal).
    """

    study: int

    def stream(self, *path: str | int) -> int:
        """A 32-bit seed for the stream named by `path`; equal paths give equal seeds."""
        text = "/".join(str(p) for p in (self.study, *path))
        return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big")


def training_seed(study: StudySpec, stage: str, ordinal: int) -> int:
    """Seed of weights and data order: one per stage, or one per trial, as the study says."""
    seed = Seed(study.seed)
    return (
        seed.stream(stage, "train") if study.seed_mode == "shared" else seed.stream(stage, "train", ordinal)
    )


def rank(history: History) -> tuple[Ranked, ...]:
    """Complete trials with their objective, best first; ties go to the lower number."""
    sign = 1 if history.study.objective.direction == "minimize" else -1
    done = [t for t in history.trials if t.state is TrialState.COMPLETE and t.value is not None]
    ordered = sorted(done, key=lambda t: (sign * (t.value or 0.0), t.number))
    return tuple(Ranked(t.number, t.value) for t in ordered if t.value is not None)


__all__ = [
    "Done", "Earlier", "History", "Plan", "Proposal", "Proposals", "Ranked", "Seed", "StageResult",
    "Start", "StopReason", "Wait", "Work", "rank", "training_seed",
]  # fmt: skip
