"""What a final stage concludes: the choice, the honest number beside the claim, the test set, findings."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tunesmith_studies.findings import Finding, gravest_first
from tunesmith_studies.planning import History, StageResult
from tunesmith_studies.stages.base import spent
from tunesmith_studies.stages.repeats import Candidate, Repeats, by_hand, named, tie_finding, told
from tunesmith_studies.statistics import interval
from tunesmith_studies.trial import Trial, TrialState

if TYPE_CHECKING:
    from tunesmith_studies.stages.final import Final

AHEAD = 10
"""The printed interval is for the mean of this many more fresh seeds."""

ROUNDING = 1e-3
"""A model evaluated again may differ by this share: another device or batch adds in another order."""

FAR_OFF = 0.1
"""A test loss this share worse than the validation loss, and by more than noise, is far off …"""
NOISE = 2.0
"""… noise being this many standard errors of the difference of the two means over samples."""


@dataclass(frozen=True, slots=True)
class Choice:
    """What the comparisons over the fresh seeds say.

    Attributes:
        candidates: in the order of the search.
        each: their trainings, in the same order.
        ranked: those with a value, best first.
        cycle: the first of them on a 1cycle schedule; None where that is not tried.
    """

    candidates: Sequence[Candidate]
    each: Sequence[Repeats]
    ranked: Sequence[Repeats]
    cycle: Repeats | None
    direction: str

    @property
    def winner(self) -> Repeats:
        return self.ranked[0]

    @property
    def claim(self) -> Candidate:
        """The winner as the search had it."""
        return self.candidates[self.place]

    @property
    def place(self) -> int:
        """The winner's among the candidates."""
        return place_of(self.winner, self.each)

    @property
    def keeps_cycle(self) -> bool:
        """Whether 1cycle's mean is better by more than one standard deviation, the larger of both."""
        cycle, plain = self.cycle, self.winner
        if cycle is None or cycle.diverged or len(cycle.values) < 2:
            return False
        if plain.diverged or len(plain.values) < 2:
            return cycle.diverged < plain.diverged
        gain = plain.spread.mean - cycle.spread.mean
        return (gain if self.direction == "minimize" else -gain) > max(plain.spread.sd, cycle.spread.sd)

    @property
    def why_cycle(self) -> str:
        """What decided about 1cycle, as a part of a sentence."""
        cycle, plain = self.cycle, self.winner
        if cycle is None or cycle.diverged or len(cycle.values) < 2:
            return "and is kept only where two seeds end with a value and none diverges"
        if plain.diverged:
            return "and did not diverge, as the run without it did"
        return f"{'' if self.keeps_cycle else 'not '}better by more than one standard deviation"

    @property
    def kept(self) -> Repeats:
        if self.keeps_cycle:
            assert self.cycle is not None
            return self.cycle
        return self.winner


def place_of(one: Repeats, each: Sequence[Repeats]) -> int:
    return next(i for i, r in enumerate(each) if r is one)


@dataclass(frozen=True, slots=True)
class Outcome:
    """A final stage whose trials have ended."""

    stage: Final
    history: History
    choice: Choice
    honest: Repeats
    evaluation: Trial | None

    def result(self) -> StageResult:
        choice = self.choice
        ranked = [choice.kept, *choice.ranked] if choice.keeps_cycle else list(choice.ranked)
        epochs = self.stage.cycle_epochs if choice.keeps_cycle else self.stage.epochs
        return StageResult(
            ranking=(*(r.ranked() for r in ranked), *by_hand(self.history)),
            why=" ".join(self._sentences()),
            chosen={"params": dict(choice.kept.params), "epochs": epochs},
            numbers=self._numbers(),
            findings=gravest_first(self._findings()),
        )

    # --- sentences ----------------------------------------------------------------------------------

    def _sentences(self) -> Iterator[str]:
        choice, count = self.choice, len(self.choice.each)
        over = f"the mean of {choice.winner.spread.n} fresh seeds"
        score = f"{self._metric} {told(choice.winner)}"
        if count > 1:
            what = named(choice.winner.params, self.history, self.stage)
            yield f"Best of {count} by {over} is {what}: {score}."
        else:
            yield f"The one configuration has by {over} {score}."
        yield self._cycle_sentence()
        yield self._honest_sentence()
        yield from self._ensemble_sentences()

    def _cycle_sentence(self) -> str:
        choice, cycle = self.choice, self.choice.cycle
        if cycle is None:
            return "1cycle was not tried."
        ended = told(cycle) if cycle.values else f"no value ({cycle.diverged} diverged)"
        verdict = "1cycle stays" if choice.keeps_cycle else "the run without it stays"
        rate = cycle.params["lr"]
        return f"1cycle with its peak at {rate:.4g} gives {ended}, {choice.why_cycle}, so {verdict}."

    def _honest_sentence(self) -> str:
        if not self.honest.values:
            return "No further seed of it ended with a value, so there is no honest number."
        found = self.honest.spread
        bad = f" ({self.honest.diverged} more diverged)" if self.honest.diverged else ""
        how = " with 1cycle" if self.choice.keeps_cycle else ""
        said = f"{found.n} fresh seeds{how} that chose nothing{bad} say {found.mean:.4g}"
        if (bounds := self._interval()) is not None:
            said += f", 95 % interval {bounds[0]:.4g} to {bounds[1]:.4g} for the mean of {AHEAD} more"
        claim = self.choice.claim
        if claim.claimed is None:
            return f"{said}."
        after = f", {claim.epochs:g} epochs" if claim.epochs is not None else ""
        return f"The search said {self._metric} {claim.claimed:.4g} ({claim.stage}{after}); {said}."

    def _ensemble_sentences(self) -> Iterator[str]:
        metrics = self._evaluated
        if not metrics:
            return
        members, metric = self._members, self._metric
        if math.isfinite(value := metrics.get(f"ensemble/{metric}", math.nan)):
            yield f"The averaged predictions of {members} models give {value:.4g}."
        if test := self._test():
            shown = ", ".join(f"{name} {value:.4g}" for name, value in test["ensemble"].items())
            first = self.evaluation is None or (self.evaluation.test_read or 1) <= 1
            read = "read once" if first else "read again"
            yield f"On the test set, {read}, they give {shown}."
        elif self.stage.test:
            yield "The task has no test split."

    # --- numbers ------------------------------------------------------------------------------------

    @property
    def _metric(self) -> str:
        return self.history.study.objective.metric

    def _interval(self, ahead: int | None = AHEAD) -> tuple[float, float] | None:
        values = list(self.honest.values.values())
        return interval(values, ahead=ahead) if len(values) > 1 else None

    @property
    def _evaluated(self) -> Mapping[str, float]:
        """What the evaluation reported; empty where it did not come to its end."""
        trial = self.evaluation
        if trial is None or trial.state is not TrialState.COMPLETE or not trial.curve:
            return {}
        return trial.curve[-1].metrics

    @property
    def _members(self) -> int:
        return len(self.evaluation.work.members) if self.evaluation is not None else 0

    def _test(self) -> dict[str, Any]:
        """What the test set said: of the averaged predictions, and the mean over the models alone."""
        found = self._evaluated
        whole = _under(found, "test/ensemble/")
        alone = [_under(found, f"test/member/{i}/") for i in range(self._members)]
        mean = {n: sum(m[n] for m in alone) / len(alone) for n in whole if all(n in m for m in alone)}
        read = self.evaluation.test_read if self.evaluation is not None else None
        return {"ensemble": whole, "alone": mean, "read": read} if whole else {}

    def _numbers(self) -> dict[str, Any]:
        choice, claim = self.choice, self.choice.claim
        figures = [
            {**r.numbers(), "claimed": c.claimed, "claimed_by": c.by, "claimed_epochs": c.epochs}
            for c, r in zip(choice.candidates, choice.each, strict=True)
        ]
        cycle = choice.cycle
        honest = {
            **self.honest.numbers(),
            "interval": _pair(self._interval()),
            "interval_of": f"the mean of {AHEAD} more fresh seeds",
            "confidence_interval": _pair(self._interval(ahead=None)),
        }
        return {
            **spent(self.history),
            "candidates": figures,
            "one_cycle": {**cycle.numbers(), "kept": choice.keeps_cycle} if cycle is not None else None,
            "claimed": claim.claimed,
            "honest": honest,
            "ensemble": _under(self._evaluated, "ensemble/val/"),
            "members": self._members,
            "test": self._test(),
        }

    # --- findings -----------------------------------------------------------------------------------

    def _findings(self) -> Iterator[Finding]:
        yield from tie_finding(self.choice.ranked, self.history, self.stage, "seeds")
        yield from self._claim()
        yield from self._unsteady()
        yield from self._evaluation_missing()
        yield from self._disagreements()
        yield from self._far_off()
        yield from self._read_before()

    def _claim(self) -> Iterator[Finding]:
        """The search claimed something of the configuration without 1cycle, so that is what judges it."""
        claim = self.choice.claim
        judge = self.choice.winner if self.choice.keeps_cycle else self.honest
        if claim.claimed is None or claim.by is None or len(judge.values) < 2:
            return
        bounds, honest = interval(list(judge.values.values()), ahead=AHEAD), judge.spread.mean
        better = claim.claimed < bounds[0] if self._minimizes else claim.claimed > bounds[1]
        if better:
            off = abs(honest - claim.claimed) / abs(claim.claimed) if claim.claimed else None
            share = f", {off:.0%} off" if off is not None else ""
            yield Finding(
                kind="optimistic_claim",
                level="info",
                sentence=f"The search claimed {self._metric} {claim.claimed:.4g} by trial {claim.by}; "
                f"{judge.spread.n} fresh seeds give {honest:.4g}{share}.",
                rule="the claim lies outside their 95 % interval: the best of many trials was lucky too",
                next_step="Quote the fresh seeds' number.",
                numbers={"claimed": claim.claimed, "honest": honest, "interval": _pair(bounds)},
                trials=(claim.by, *(t.number for t in judge.complete.values())),
            )

    def _unsteady(self) -> Iterator[Finding]:
        if self.honest.diverged:
            count = len(self.honest.trials)
            yield Finding(
                kind="winner_diverged",
                level="warn",
                sentence=f"{self.honest.diverged} of {count} further seeds of the winner diverged; "
                "the honest number is that of the others.",
                rule="a configuration that is to be used shall not depend on its seed",
                next_step="Lower its rate, or clip its gradient, and run a final stage again.",
                trials=tuple(t.number for t in self.honest.trials.values() if t.is_diverged),
            )

    def _evaluation_missing(self) -> Iterator[Finding]:
        trial = self.evaluation
        if trial is None:
            yield Finding(
                kind="no_evaluation",
                level="warn",
                sentence="No training of the winner left a snapshot, so its models were not averaged, and "
                "the test set was not read.",
                rule="an evaluation needs the winner's snapshots",
                next_step="See these trials' logs; a loop of one's own calls trial.snapshot at its end.",
                trials=tuple(t.number for t in self.honest.complete.values()),
            )
        elif not self._evaluated:
            yield Finding(
                kind="no_evaluation",
                level="warn",
                sentence=f"The evaluation, trial {trial.number}, ended {trial.state}, so the models were not "
                "averaged, and nothing is known of the test set.",
                rule="",
                next_step="See its log; a task with a loop of its own is evaluated by its own code.",
                trials=(trial.number,),
            )

    def _disagreements(self) -> Iterator[Finding]:
        """The same weights on the same samples: what a trial logged must come out again."""
        trial, metric = self.evaluation, self._metric
        for i, start in enumerate(trial.work.members if trial is not None else ()):
            again = self._evaluated.get(f"member/{i}/{metric}")
            logged = self._logged(start.trial, start.step)
            if trial is None or again is None or not math.isfinite(again) or not logged:
                continue
            nearest = min(logged, key=lambda value: abs(value - again))
            if abs(again - nearest) > ROUNDING * max(abs(again), abs(nearest)):
                yield Finding(
                    kind="evaluation_disagrees",
                    level="warn",
                    sentence=f"Trial {start.trial} logged {metric} {nearest:.6g}; its snapshot evaluated "
                    f"again gives {again:.6g}.",
                    rule=f"the same weights and samples agree to {ROUNDING:.1%}",
                    next_step="Look for evaluation in training mode, random transforms of the validation "
                    "split, or state that the snapshot misses.",
                    numbers={"logged": nearest, "again": again},
                    trials=(start.trial, trial.number),
                )

    def _logged(self, number: int, step: int) -> list[float]:
        """What a trial may have logged for its snapshot: its point of that step, and the best, whose
        weights early stopping restores."""
        trial = next(t for t in self.history.trials if t.number == number)
        values = trial.metric(self._metric)
        there = [v for s, v in values if s == step]
        pick = min if self._minimizes else max
        return [*there, pick(v for _, v in values)] if values else []

    def _far_off(self) -> Iterator[Finding]:
        found, trial = self._evaluated, self.evaluation
        val, test = found.get("ensemble/val/loss"), found.get("test/ensemble/loss")
        if trial is None or val is None or test is None or not math.isfinite(val):
            return
        errors = (found.get("ensemble/val/loss_error", 0.0), found.get("test/ensemble/loss_error", 0.0))
        error = (errors[0] ** 2 + errors[1] ** 2) ** 0.5
        if test - val > max(FAR_OFF * abs(val), NOISE * error):
            yield Finding(
                kind="overfit_validation",
                level="warn",
                sentence=f"The test loss {test:.4g} is {test - val:.2g} above the validation loss {val:.4g}, "
                f"standard error of the difference {error:.2g}.",
                rule=f"more than {FAR_OFF:.0%} and more than {NOISE:g} standard errors",
                next_step="The search has fitted the validation split, or the splits differ: validate on "
                "more samples or by folds, and check how the test split was drawn.",
                numbers={"val": val, "test": test, "error": error},
                trials=(trial.number,),
            )

    def _read_before(self) -> Iterator[Finding]:
        trial = self.evaluation
        if trial is not None and (trial.test_read or 0) > 1:
            yield Finding(
                kind="test_read_again",
                level="warn",
                sentence=f"The test set was read before: this is read {trial.test_read}. "
                "What was decided after the first read has seen it.",
                rule="a test set is read once",
                next_step="Report the first read's number, or get a test set that is new.",
                numbers={"read": trial.test_read},
                trials=(trial.number,),
            )

    @property
    def _minimizes(self) -> bool:
        return self.history.study.objective.direction == "minimize"


def _under(metrics: Mapping[str, float], prefix: str) -> dict[str, float]:
    """Finite metrics of one prefix by their own names, standard errors left out."""
    return {
        name.removeprefix(prefix): value
        for name, value in metrics.items()
        if name.startswith(prefix) and not name.endswith("_error") and math.isfinite(value)
    }


def _pair(bounds: tuple[float, float] | None) -> list[float] | None:
    return list(bounds) if bounds is not None else None
