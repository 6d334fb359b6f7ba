"""Final: the best few again with fresh seeds, and one look at the test set."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from tunesmith_studies.planning import Done, History, Plan, Proposal, Seed, StageResult
from tunesmith_studies.space import Scalar, tidy
from tunesmith_studies.stages.base import Forecast, Stage, failed, nothing_ranks, still_open
from tunesmith_studies.stages.final_result import Choice, Outcome, place_of
from tunesmith_studies.stages.repeats import (
    Candidate,
    Repeats,
    base_problems,
    best_first,
    candidates,
    candidates_at_most,
    repeats,
)
from tunesmith_studies.trial import Start, Work

if TYPE_CHECKING:
    from tunesmith_studies.study import StudySpec

DIVISION = 10.0
"""A 1cycle begins at this share of its peak: max / 10, Smith 2018, arXiv 1803.09820 §4.1 (b)."""

OWN_MOMENTUM = {"momentum": 0.9, "nesterov": 0.9}
"""What the trainer gives these where a study says nothing; the others have none."""


class Final(Stage):
    """An honest number for the best few, and for the winner whatever makes it better.

    1. The best `top` configurations of the source train from scratch for `epochs`, each with the
       same `seeds` fresh seeds, and are ranked by their mean. A seed that diverged puts its
       configuration behind those that did not.
    2. The winner trains again on a 1cycle schedule (`one_cycle`) with the same seeds; that is kept
       only where its mean is better by more than one standard deviation, the larger of both.
    3. What is kept trains with `honest_seeds` further seeds. They had no part in choosing, so their
       mean is not flattered by the choice: the printed number and its 95 % interval are theirs.
       The interval is for the mean of ten more seeds; see `statistics.interval`.
    4. One trial evaluates the models of these seeds, alone and by the mean of their predictions,
       and with `test` reads the test set: no other stage may.

    Source: the recipe's §1.6 (winner's curse: what a search claims for its best trial was 2 to 60 %
    better than what fresh seeds gave) and §4.6 to 4.8.
    """

    kind: Literal["final"] = "final"
    epochs: int = Field(ge=1, description="Length of a full training.")
    top: int = Field(default=3, ge=1, le=50, description="How many of the source's best are trained again.")
    seeds: int = Field(default=3, ge=3, le=100, description="Fresh seeds by which the best are compared.")
    honest_seeds: int = Field(
        default=5, ge=3, le=100, description="Further seeds of the winner; number, interval and ensemble."
    )
    one_cycle: bool = Field(default=True, description="Try a 1cycle schedule on the winner.")
    one_cycle_epochs: int | None = Field(
        default=None, ge=1, description="Length of the 1cycle trainings; default `epochs`."
    )
    peak_scale: float = Field(
        default=1.0, gt=0, le=4, description="1cycle's peak in lr / (1 - momentum), in times the winner's."
    )
    annihilation: float = Field(
        default=0.15, ge=0.05, le=0.5, description="Share of a 1cycle run at its end."
    )
    test: bool = Field(default=True, description="Read the test set, once, with the winner's models.")

    def problems(self, study: StudySpec) -> list[str]:
        found = list(base_problems(self, study))
        if self.one_cycle_epochs is not None and self.one_cycle_epochs > self.epochs:
            found.append(
                f"one_cycle_epochs must be at most epochs {self.epochs}, got {self.one_cycle_epochs}: "
                "a longer training is no fair comparison"
            )
        return found

    def plan(self, history: History, n: int, seed: Seed) -> Plan:
        found = candidates(self, history, self.top)
        if isinstance(found, str):
            return failed(found)
        run = _Run(self, history, found, seed)
        for phase in (run.fresh, run.cycle, run.honest, run.evaluation):
            todo = phase()
            if isinstance(todo, Done):
                return todo
            if answer := still_open(todo, history, n):
                return answer
        return Done(run.result())

    @property
    def cycle_epochs(self) -> int:
        return self.one_cycle_epochs or self.epochs

    def choice(self, history: History, seed: Seed) -> Choice | None:
        """What the comparisons of this stage's trials say by now; None while nothing ranks."""
        found = candidates(self, history, self.top)
        if isinstance(found, str):
            return None
        run = _Run(self, history, found, seed)
        return run.choice() if best_first(run.each(), history.study.objective.direction) else None

    def forecast(self, study: StudySpec, sources: Mapping[str, Forecast]) -> Forecast:
        found = candidates_at_most(self, study, sources, self.top)
        cycles = self.seeds if self.one_cycle else 0
        return Forecast(
            trials=found * self.seeds + cycles + self.honest_seeds + 1,
            epochs=found * self.seeds * self.epochs
            + cycles * self.cycle_epochs
            + self.honest_seeds * self.epochs,
            snapshots=self.honest_seeds,
        )


@dataclass(slots=True)
class _Run:
    """One look at the stage's history. Each phase gives its trials, or the stage's end."""

    stage: Final
    history: History
    candidates: list[Candidate]
    seed: Seed

    def fresh(self) -> list[Proposal]:
        """Seed by seed: whatever ends early, the candidates share the seeds that have run."""
        count = len(self.candidates)
        return [
            self._training(fresh_key(i, j), j * count + i, c.params, self._seed("fresh", j))
            for j in range(self.stage.seeds)
            for i, c in enumerate(self.candidates)
        ]

    def cycle(self) -> list[Proposal] | Done:
        each = self.each()
        ranked = self._ranked(each)
        if not ranked:
            return nothing_ranks(self.history)
        params = self._cycle_params(ranked[0])
        if params is None:
            return []
        first = len(self.candidates) * self.stage.seeds
        winner = place_of(ranked[0], each)
        return [
            self._training(
                cycle_key(winner, j),
                first + j,
                params,
                self._seed("fresh", j),
                epochs=self.stage.cycle_epochs,
            )
            for j in range(self.stage.seeds)
        ]

    def honest(self) -> list[Proposal]:
        choice = self.choice()
        first = (len(self.candidates) + 1) * self.stage.seeds
        epochs = self.stage.cycle_epochs if choice.keeps_cycle else self.stage.epochs
        return [
            self._training(
                honest_key(choice, j),
                first + j,
                choice.kept.params,
                self._seed("honest", j),
                epochs=epochs,
                keep=True,
            )
            for j in range(self.stage.honest_seeds)
        ]

    def evaluation(self) -> list[Proposal]:
        choice = self.choice()
        honest = self._honest(choice)
        members = tuple(
            Start(t.number, t.snapshots[-1])
            for t in honest.complete.values()
            if t.snapshots and t.snapshots[-1] == t.curve[-1].step  # of its end, not of a hand-over
        )
        if not members:
            return []
        ordinal = (len(self.candidates) + 1) * self.stage.seeds + self.stage.honest_seeds
        work = Work(
            1,
            self._seed("honest", 0),
            kind="evaluate",
            data_fraction=self.stage.data_fraction,  # preprocessing is fitted on what they trained on
            inspect=True,
            members=members,
            read_test=self.stage.test,
        )
        return [Proposal(evaluation_key(choice), ordinal, honest.params, work)]

    def result(self) -> StageResult:
        choice = self.choice()
        evaluation = self.history.by_key().get(evaluation_key(choice))
        return Outcome(self.stage, self.history, choice, self._honest(choice), evaluation).result()

    # --- what the phases share ----------------------------------------------------------------------

    def choice(self) -> Choice:
        """What the comparisons say by now; needs a configuration that ranks."""
        each = self.each()
        ranked = self._ranked(each)
        params = self._cycle_params(ranked[0])
        winner = place_of(ranked[0], each)
        keys = {j: cycle_key(winner, j) for j in range(self.stage.seeds)}
        cycle = repeats(self.history, params, keys) if params is not None else None
        direction = self.history.study.objective.direction
        return Choice(self.candidates, each, ranked, cycle, direction)

    def _honest(self, choice: Choice) -> Repeats:
        keys = {j: honest_key(choice, j) for j in range(self.stage.honest_seeds)}
        return repeats(self.history, choice.kept.params, keys)

    def each(self) -> list[Repeats]:
        return [
            repeats(self.history, c.params, {j: fresh_key(i, j) for j in range(self.stage.seeds)})
            for i, c in enumerate(self.candidates)
        ]

    def _ranked(self, each: list[Repeats]) -> list[Repeats]:
        return best_first(each, self.history.study.objective.direction)

    def _cycle_params(self, winner: Repeats) -> dict[str, Scalar] | None:
        if not self.stage.one_cycle:
            return None
        return one_cycle_params(winner.params, self.stage.peak_scale, self.stage.annihilation)

    def _seed(self, what: str, j: int) -> int:
        return self.seed.stream(self.stage.name, what, j)

    def _training(
        self,
        key: str,
        ordinal: int,
        params: Mapping[str, Scalar],
        seed: int,
        *,
        epochs: int | None = None,
        keep: bool = False,
    ) -> Proposal:
        length = epochs or self.stage.epochs
        work = Work(length, seed, data_fraction=self.stage.data_fraction, keep_snapshot=keep, inspect=True)
        return Proposal(key, ordinal, params, work)


def one_cycle_params(
    params: Mapping[str, Scalar], scale: float, annihilation: float
) -> dict[str, Scalar] | None:
    """The same configuration on a 1cycle schedule, or None where there is nothing to compare: it is on
    one already, or names no `lr`, as somebody's own loop may.

    The peak is where the step that momentum makes of the rate, lr / (1 - momentum), is `scale` times
    the configuration's own. Adam's steps do not grow with beta1, so its peak is `scale` times its
    rate. Early stopping is switched off: the loss rises in the middle of a cycle and falls at its end.
    Source: measured for this project, the recipe's §1.6; scales of 1 to 2 serve, 4 was bad everywhere.
    """
    lr = params.get("lr")
    if params.get("schedule", "constant") == "one_cycle" or not isinstance(lr, int | float) or lr <= 0:
        return None
    optimizer = str(params.get("optimizer", "sgd"))
    momentum = params.get("momentum", OWN_MOMENTUM.get(optimizer, 0.0))
    low = params.get("momentum_low", 0.85)
    peak = scale * lr
    with_momentum = optimizer in ("sgd", "momentum", "nesterov", "rmsprop")
    if with_momentum and _is_share(momentum) and _is_share(low):
        peak *= (1 - float(low)) / (1 - float(momentum))
    found = {**params, "lr": tidy(peak), "annihilation": annihilation, "div_factor": DIVISION}
    found["schedule"] = "one_cycle"
    found.pop("cooldown", None)  # a cycle has an end of its own
    if found.get("early_stopping"):
        found["early_stopping"] = 0
    return found


def _is_share(value: Scalar) -> bool:
    return isinstance(value, int | float) and 0 < value < 1


# Keys name the configuration that a trial trains: a seed that is tried again may make another one the
# winner, whose trials are then planned beside those of the first.


def fresh_key(candidate: int, seed: int) -> str:
    return f"candidate:{candidate}/seed:{seed}"


def cycle_key(candidate: int, seed: int) -> str:
    return f"one_cycle:{candidate}/seed:{seed}"


def honest_key(choice: Choice, seed: int) -> str:
    return f"honest:{_kept(choice)}/seed:{seed}"


def evaluation_key(choice: Choice) -> str:
    """Of the trial that evaluates the models of what is kept, alone and averaged."""
    return f"evaluation:{_kept(choice)}"


def _kept(choice: Choice) -> str:
    return f"{choice.place}{'/one_cycle' if choice.keeps_cycle else ''}"
