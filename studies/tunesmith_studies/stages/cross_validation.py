"""Cross-validation: the best few over the same folds, for data too small to trust one split."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from tunesmith_studies.findings import Finding
from tunesmith_studies.planning import Done, History, Plan, Proposal, Seed, StageResult
from tunesmith_studies.stages.base import Forecast, Stage, failed, nothing_ranks, spent, still_open
from tunesmith_studies.stages.repeats import (
    Candidate,
    Repeats,
    base_problems,
    best_first,
    by_hand,
    candidates,
    candidates_at_most,
    cheapest,
    named,
    repeats,
    tie_finding,
)
from tunesmith_studies.trial import Work

if TYPE_CHECKING:
    from tunesmith_studies.study import StudySpec


class CrossValidation(Stage):
    """Train each of the best `top` on every one of `folds` parts of training and validation split.

    Each fold trains on all parts but one and validates on that one; the test split takes no part.
    All candidates have the same folds and the same seed, so they are compared in pairs. Ranked by
    the mean over the folds, with sd/√folds beside it; a diverged fold puts its candidate behind all
    that did not diverge. Where the pairs tell the best and another not apart, `chosen` holds the one
    that takes clearly less time to train. In the ranking a candidate is its first complete fold's
    trial with the candidate's mean as its value.

    Source: the recipe's §1.6: 5 folds, 10 below 500 samples. The service does not know how many
    samples a task has, so `folds` is the person's to raise.
    """

    kind: Literal["cross_validation"] = "cross_validation"
    top: int = Field(default=3, ge=1, le=50, description="How many of the source's best are compared.")
    folds: int = Field(default=5, ge=2, le=50, description="Parts; take 10 for fewer than 500 samples.")

    def problems(self, study: StudySpec) -> list[str]:
        return list(base_problems(self, study))

    def plan(self, history: History, n: int, seed: Seed) -> Plan:
        found = candidates(self, history, self.top)
        if isinstance(found, str):
            return failed(found)
        todo = self._trials(found, seed)
        return still_open(todo, history, n, "trainings") or self._result(history, found)

    def forecast(self, study: StudySpec, sources: Mapping[str, Forecast]) -> Forecast:
        found = candidates_at_most(self, study, sources, self.top)
        return Forecast(trials=found * self.folds, epochs=found * self.folds * self.epochs)

    def _trials(self, found: list[Candidate], seed: Seed) -> list[Proposal]:
        """Fold by fold: whatever ends early, the candidates share the folds that have run."""
        one = seed.stream(self.name, "train")  # of weights and order; the task's split seed cuts the folds
        return [
            Proposal(
                fold_key(i, fold),
                fold * len(found) + i,
                candidate.params,
                Work(
                    self.epochs,
                    one,
                    data_fraction=self.data_fraction,
                    fold=(fold, self.folds),
                    inspect=self.inspect,
                ),
            )
            for fold in range(self.folds)
            for i, candidate in enumerate(found)
        ]

    def _result(self, history: History, found: list[Candidate]) -> Done:
        each = [
            repeats(history, c.params, {fold: fold_key(i, fold) for fold in range(self.folds)})
            for i, c in enumerate(found)
        ]
        ranked = best_first(each, history.study.objective.direction)
        if not ranked:
            return nothing_ranks(history)
        chosen = cheapest(ranked)
        figures = [_numbers(r, c) for r, c in zip(each, found, strict=True)]
        ties = tie_finding(ranked, history, self, "folds")
        return Done(
            StageResult(
                ranking=(*(r.ranked() for r in ranked), *by_hand(history)),
                why=self._why(history, ranked, chosen),
                chosen={"params": dict(chosen.params)},
                numbers={**spent(history), "folds": self.folds, "candidates": figures},
                findings=(*ties, *_judged_where_stopped(history, ranked[0])),
            )
        )

    def _why(self, history: History, ranked: list[Repeats], chosen: Repeats) -> str:
        best, metric = ranked[0], history.study.objective.metric
        count = f"{len(ranked)} configurations" if len(ranked) > 1 else "1 configuration"
        error = f" ± {best.spread.error:.2g} (sd/√{best.spread.n})" if best.spread.n > 1 else ""
        tied = (
            "" if chosen is best else f" {named(chosen.params, history, self)} is tied with it and cheaper."
        )
        return (
            f"{count} over the same {self.folds} folds. Best is {named(best.params, history, self)}: "
            f"{metric} {best.spread.mean:.4g}{error}.{tied}"
        )


def fold_key(candidate: int, fold: int) -> str:
    return f"candidate:{candidate}/fold:{fold}"


def _numbers(repeated: Repeats, candidate: Candidate) -> dict[str, Any]:
    error = repeated.spread.error if len(repeated.values) > 1 else None
    return {**repeated.numbers(), "error": error, "claimed": candidate.claimed, "claimed_by": candidate.by}


def _judged_where_stopped(history: History, best: Repeats) -> list[Finding]:
    """A fold that also picked the epoch is no judge any more."""
    stops = best.params.get("early_stopping", 0) != 0
    picks = history.study.objective.reduce == "best"
    if not stops and not picks:
        return []
    how = "early stopping" if stops else "the objective's reduce: best"
    return [
        Finding(
            kind="judged_where_stopped",
            level="info",
            sentence=f"By {how} each fold has picked the epoch that it judges, so the means are optimistic.",
            rule="never choose by the fold that stopped the training (recipe §1.6)",
            next_step="Believe the order rather than the numbers; fresh seeds in a final stage give those.",
        )
    ]
