"""Configurations trained several times, over seeds or folds: what `final` and `cross_validation` share."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from tunesmith_studies.findings import Finding
from tunesmith_studies.planning import Earlier, History, Ranked
from tunesmith_studies.planning import rank as by_objective
from tunesmith_studies.space import Scalar, canonical
from tunesmith_studies.stages.base import Forecast, Stage, show_params, source_or_why
from tunesmith_studies.stages.weight_decay_restarts import WeightDecayRestarts
from tunesmith_studies.statistics import FEWEST_PAIRS, Spread, paired, spread
from tunesmith_studies.trial import Trial, TrialState

if TYPE_CHECKING:
    from tunesmith_studies.study import StudySpec

CHEAPER = 0.8
"""A tied configuration is worth naming as the cheaper if it takes less than this share of the time."""


# --- which configurations -------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Candidate:
    """A configuration to train again.

    Attributes:
        params: complete, with what this stage holds.
        claimed: what the stage that found it says of it; None where nothing was searched.
        by: number of the trial that the claim is about.
        stage: that says so.
        epochs: how many that trial had trained in all; None where it counts something else.
    """

    params: Mapping[str, Scalar]
    claimed: float | None = None
    by: int | None = None
    stage: str = ""
    epochs: float | None = None


def base_problems(stage: Stage, study: StudySpec) -> Iterator[str]:
    """What both kinds refuse."""
    if stage.pruner is not None:
        yield "it compares means of whole trainings, which a pruner would cut; leave its pruner out"
    if stage.source_in(study) is None:
        for name in stage.open_space(study).names():
            yield (
                f"it has no earlier stage to take {name} from; hold {name} under fixed, "
                "or put a searching stage before this one"
            )


def candidates(stage: Stage, history: History, top: int) -> list[Candidate] | str:
    """The best `top` distinct configurations of the source, best first, or why there is none.

    After weight_decay_restarts these are its pick, then the best of the stage that it took its base
    from: its other trials differ from the pick in nothing but the decay, and have lost to it.
    """
    study = history.study
    if stage.source is None and stage.source_in(study) is None:
        return [Candidate(study.space.switched_on(stage.held(study)))]
    source = source_or_why(stage, history)
    if isinstance(source, str):
        return source
    found: dict[str, Candidate] = {}
    for trial, value in _ranked(source, history):
        params = study.space.switched_on({**trial.params, **stage.held(study)})
        trained = trial.curve[-1].step if trial.curve and trial.work.unit == "epoch" else None
        found.setdefault(canonical(params), Candidate(params, value, trial.number, trial.stage, trained))
    return list(found.values())[:top]


def _ranked(source: Earlier, history: History) -> Iterator[tuple[Trial, float]]:
    by_number = {t.number: t for t in source.trials}
    ranked = [(by_number[r.trial], r.value) for r in source.result.ranking]
    if not isinstance(source.stage, WeightDecayRestarts):
        yield from ranked
        return
    pick = canonical(source.result.chosen["params"])
    yield from [pair for pair in ranked if canonical(pair[0].params) == pick][:1]
    names = list(history.earlier)
    before = {n: history.earlier[n] for n in names[: names.index(source.stage.name)]}
    searched = replace(history, earlier=before).source_of(source.stage)
    if searched is not None:
        yield from _ranked(searched, history)


def candidates_at_most(stage: Stage, study: StudySpec, sources: Mapping[str, Forecast], top: int) -> int:
    """For a forecast: earlier stages run no more distinct configurations than trials."""
    return min(top, sum(f.trials for f in sources.values())) if stage.source_in(study) is not None else 1


# --- what became of them --------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Repeats:
    """What repeated trainings of one configuration gave.

    Attributes:
        params: of the configuration.
        trials: by seed or fold, those that were planned.
    """

    params: Mapping[str, Scalar]
    trials: Mapping[int, Trial]

    @property
    def complete(self) -> dict[int, Trial]:
        done = {i: t for i, t in self.trials.items() if t.state is TrialState.COMPLETE}
        return {i: t for i, t in done.items() if t.value is not None}

    @property
    def values(self) -> dict[int, float]:
        """The objective by seed or fold, of those that have one."""
        return {i: t.value for i, t in self.complete.items() if t.value is not None}

    @property
    def diverged(self) -> int:
        return sum(t.is_diverged for t in self.trials.values())

    @property
    def spread(self) -> Spread:
        return spread(list(self.values.values()))

    @property
    def seconds(self) -> float | None:
        """Training time of one, on average; None where the trainer does not say."""
        each = [_seconds(t) for t in self.complete.values()]
        known = [s for s in each if s is not None]
        return math.fsum(known) / len(known) if known and len(known) == len(each) else None

    def ranked(self) -> Ranked:
        """Stands for the configuration in a ranking: its first complete trial, with the mean."""
        first = self.complete[min(self.complete)]
        return Ranked(first.number, self.spread.mean)

    def numbers(self) -> dict[str, Any]:
        """For a stage's result; JSON."""
        values = self.values
        found = self.spread if values else None
        return {
            "params": dict(self.params),
            "trials": [t.number for t in self.trials.values()],
            "values": {str(i): v for i, v in values.items()},
            "mean": found.mean if found else None,
            "sd": found.sd if found and found.n > 1 else None,
            "diverged": self.diverged,
            "seconds": self.seconds,
        }


def _seconds(trial: Trial) -> float | None:
    each = [v for _, v in trial.metric("sys/epoch_seconds")]
    return math.fsum(each) if each else None


def best_first(found: Sequence[Repeats], direction: str) -> list[Repeats]:
    """By the mean; one that diverged comes after all that did not, one without any value not at all."""
    sign = 1 if direction == "minimize" else -1
    able = [r for r in found if r.values]
    return sorted(able, key=lambda r: (r.diverged, sign * r.spread.mean))


def repeats(history: History, params: Mapping[str, Scalar], keys: Mapping[int, str]) -> Repeats:
    """The trials of one configuration; `keys` by seed or fold."""
    by_key = history.by_key()
    return Repeats(params, {i: by_key[key] for i, key in keys.items() if key in by_key})


def by_hand(history: History) -> tuple[Ranked, ...]:
    """Complete trials that people enqueued: one training each, so they come after every mean."""
    hands = {t.number for t in history.trials if t.by_hand}
    return tuple(r for r in by_objective(history) if r.trial in hands)


# --- what is told of them -------------------------------------------------------------------------------


def told(repeated: Repeats) -> str:
    """`0.088 ± 0.004`, with how many diverged."""
    found = repeated.spread
    shown = f"{found.mean:.4g}" + (f" ± {found.sd:.2g}" if found.n > 1 else "")
    return shown + (f" ({repeated.diverged} diverged)" if repeated.diverged else "")


def named(params: Mapping[str, Scalar], history: History, stage: Stage) -> str:
    return show_params(params, stage.open_space(history.study).names())


def tied_with_best(ranked: Sequence[Repeats]) -> list[Repeats]:
    """Those behind the first that its seeds or folds do not tell apart from it."""
    if not ranked or ranked[0].diverged:
        return []
    best = ranked[0]
    steady = [r for r in ranked[1:] if not r.diverged and r.values.keys() & best.values.keys()]
    return [r for r in steady if paired(best.values, r.values).is_tie]


def cheapest(ranked: Sequence[Repeats]) -> Repeats:
    """The best, or what is tied with it and takes clearly less time: the least of these.

    Fewer than three pairs tell nothing apart, so they are no reason to leave the best.
    """
    best = ranked[0]
    if best.seconds is None:
        return best
    limit = CHEAPER * best.seconds
    less = [
        r
        for r in tied_with_best(ranked)
        if r.seconds is not None and r.seconds < limit and paired(best.values, r.values).n >= FEWEST_PAIRS
    ]
    return min(less, key=lambda r: r.seconds or 0.0, default=best)


def tie_finding(ranked: Sequence[Repeats], history: History, stage: Stage, over: str) -> list[Finding]:
    """Says that the first place is within the noise of seeds or folds, and which of the tied is cheaper."""
    tied = tied_with_best(ranked)
    if not tied:
        return []
    best, second = ranked[0], tied[0]
    pair = paired(best.values, second.values)
    cheaper = cheapest(ranked)
    advice = "Take the simpler of them, or compare them over more " + over + "."
    if cheaper is not best:
        advice = (
            f"Prefer {named(cheaper.params, history, stage)}: it takes {cheaper.seconds:.3g} s a training, "
            f"the first {best.seconds:.3g} s."
        )
    sd = f", sd of the difference {pair.sd:.2g}" if pair.n > 1 else ""
    return [
        Finding(
            kind="tie",
            level="info",
            sentence=(
                f"The best ({named(best.params, history, stage)}: {told(best)}) and {len(tied)} more, the "
                f"next {named(second.params, history, stage)}: {told(second)}, are tied over {pair.n} "
                f"{over}: mean difference {abs(pair.difference):.2g}{sd}."
            ),
            rule="paired differences: |mean| ≤ 2 standard errors, or fewer than 3 pairs",
            next_step=advice,
            numbers={"difference": pair.difference, "pairs": pair.n, "tied": 1 + len(tied)},
            trials=tuple(t.number for r in (best, *tied) for t in r.complete.values()),
        )
    ]
