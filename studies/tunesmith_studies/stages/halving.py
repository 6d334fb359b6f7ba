"""Halving: many short trainings, of which the best third go on from their snapshots, and again."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from tunesmith_studies.checked import Listed
from tunesmith_studies.grounds import Grounds, of_space
from tunesmith_studies.planning import (
    Done,
    History,
    Plan,
    Proposal,
    Proposals,
    Ranked,
    Seed,
    StageResult,
    Wait,
)
from tunesmith_studies.samplers import Told, TPESampler, fits
from tunesmith_studies.space import Float, Params, Space
from tunesmith_studies.stages.base import Forecast, Stage, nothing_ranks, show_params, spent
from tunesmith_studies.stages.halving_border import Batch, wider
from tunesmith_studies.stages.halving_points import Drawn, Source
from tunesmith_studies.trial import Start, StopReason, Trial, TrialState, Work
from tunesmith_studies.vocabulary import ANY_LENGTH_SCHEDULES

if TYPE_CHECKING:
    from tunesmith_studies.study import StudySpec

SHORTEST = 2
"""Epochs of a first rung: one point of a curve is noise (recipe §3.1)."""
USUAL_CELLS = 12
CENTRES = 3
"""Later batches look around this many of the best."""


class Halving(Stage):
    """A batch of points trains for a few epochs; one in `keep` goes on, and one in `keep` of those.

    Who goes on is a new trial from its parent's snapshot, so that no epoch is trained twice. A rung is
    decided as a whole, a trial that is sure of its place goes on at once. The first batch has cells of
    rate against weight decay beside quasi-random points over everything, its rates around what a range
    test suggests; each of `rounds` later batches is half neighbours of the best three, half a model's.

    With `cooldown` a whole training ends with a falling rate, which a last value at a constant rate is a
    noisy guess of; all before it stays at the schedule's rate, so that rungs still go on from snapshots.

    Sources: Jamieson & Talwalkar, arXiv 1502.07943; batches of 27, first rungs of 2 and a third kept are
    what was best on TaskSet and LCBench curves. Hägele et al., arXiv 2405.18392, for the cooldown.
    """

    kind: Literal["halving"] = "halving"
    trials: int = Field(default=27, ge=1, le=100_000, description="Points of the first batch.")
    grid: int | None = Field(
        default=None,
        ge=0,
        le=1000,
        description="How many of them are cells, as far as there are; default 12, or all of fewer trials.",
    )
    warm_start: int = Field(
        default=0, ge=0, le=1000, description="The best so many of each earlier stage are points as well."
    )
    rungs: Listed[int] = Field(
        default=(), description="Epochs done at each cut; default a ninth and a third of `epochs`, from 2 up."
    )
    keep: int = Field(default=3, ge=2, le=100, description="One in so many goes on.")
    finalists: int = Field(
        default=1, ge=1, le=1000, description="So many of a batch reach full length, at least."
    )
    cooldown: float = Field(
        default=0.0,
        ge=0,
        lt=1,
        description="Share of a whole training at its end in which the rate falls to 0; no more than what "
        "the last rung trains.",
    )
    rounds: int = Field(default=1, ge=0, le=1000, description="Later batches.")
    later: int = Field(default=9, ge=1, le=10_000, description="Points of each later batch.")
    sampler: TPESampler = TPESampler(n_startup_trials=5, multivariate=True, group=True)

    # --- checks -------------------------------------------------------------------------------------

    def problems(self, study: StudySpec) -> list[str]:
        return list(self._problems(study))

    def _problems(self, study: StudySpec) -> Iterator[str]:
        if not len(self.open_space(study)):
            yield "nothing in the space is left to vary; add a parameter to space"
        lengths = self.lengths
        if any(a >= b for a, b in pairwise(lengths)) or lengths[0] < 1:
            yield f"rungs must rise from 1 to below its {self.epochs} epochs, got {list(self.rungs)}"
        if self.cells > self.trials:
            yield f"grid is {self.grid} of {self.trials} trials; lower grid, or raise trials"
        if len(lengths) > 1:
            yield from self.prolonging_problems(study)
            if self.cooldown * self.epochs > lengths[-1] - lengths[-2] + 1e-9:
                most = 1 - lengths[-2] / lengths[-1]
                yield (
                    f"cooldown {self.cooldown:g} of {self.epochs} epochs begins before the last rung, at "
                    f"epoch {lengths[-2]}: what goes on would be another training; make it at most {most:.3g}"
                )
        if self.cooldown and self.held(study).get("schedule", "constant") not in ANY_LENGTH_SCHEDULES:
            yield "cooldown needs a schedule that does not know the length; leave it out, or hold constant"

    def range_test_in(self, study: StudySpec) -> str | None:
        tests = self.range_tests_before(study)
        return tests[-1] if tests and isinstance(self.open_space(study).root.get("lr"), Float) else None

    @property
    def cells(self) -> int:
        """How many points of the first batch are cells, as far as there are."""
        return min(USUAL_CELLS, self.trials) if self.grid is None else self.grid

    @property
    def lengths(self) -> tuple[int, ...]:
        """Epochs done at the end of each rung, the whole length last."""
        if self.rungs:
            return (*self.rungs, self.epochs)
        thirds = [round(self.epochs / self.keep**k) for k in (2, 1)]
        return (*(n for n in thirds if SHORTEST <= n < self.epochs), self.epochs)

    # --- planning -----------------------------------------------------------------------------------

    def plan(self, history: History, n: int, seed: Seed) -> Plan:
        run = _Run(self, history, seed)
        for batch in self.batches():
            todo, waiting = run.answer(batch)
            if todo:
                return Proposals(tuple(todo[:n]))
            if waiting:
                return Wait(waiting)
        return run.result()

    def batches(self) -> list[range]:
        """The numbers of each batch's points."""
        ends = [self.trials + k * self.later for k in range(self.rounds + 1)]
        return [range(a, b) for a, b in zip((0, *ends), ends, strict=False)]

    def sizes(self, points: int) -> list[int]:
        """How many of a batch of `points` train on each rung at most."""
        found = [points]
        for _ in self.lengths[1:]:
            found.append(max(-(-found[-1] // self.keep), min(self.finalists, found[-1])))
        return found

    def grounds(self, history: History) -> Grounds:
        return of_space(self.open_space(history.study))

    def forecast(self, study: StudySpec, sources: Mapping[str, Forecast]) -> Forecast:
        steps = [b - a for a, b in zip((0, *self.lengths), self.lengths, strict=False)]
        sizes = [self.sizes(len(batch)) for batch in self.batches()]
        keep_last = self.keeps_snapshots(study)
        return Forecast(
            trials=sum(map(sum, sizes)),
            epochs=sum(step * n for batch in sizes for step, n in zip(steps, batch, strict=True)),
            snapshots=sum(sum(batch if keep_last else batch[:-1]) for batch in sizes),
        )


def key(point: int, epochs: int) -> str:
    return f"point:{point}@{epochs}"


@dataclass(slots=True)
class _Run:
    """One look at a stage's history."""

    stage: Halving
    history: History
    seed: Seed
    trials: dict[str, Trial] = field(init=False)

    def __post_init__(self) -> None:
        self.trials = self.history.by_key()

    # --- rungs --------------------------------------------------------------------------------------

    def answer(self, batch: range) -> tuple[list[Proposal], str]:
        """What a batch still lacks, the longest trainings first, and what it waits for; neither: it is over.

        A rung is decided when all of it has ended. Who would go on even if everything still open were
        better goes on at once: that changes no decision and keeps slots busy.
        """
        lengths, sizes = self.stage.lengths, self.stage.sizes(len(batch))
        points = [i for i in batch if key(i, lengths[0]) in self.trials]
        todo = self._missing(batch)
        waiting, coming = "", len(todo)  # how many will join this rung yet
        for rung, epochs in enumerate(lengths):
            here = {i: self.trials[key(i, epochs)] for i in points if key(i, epochs) in self.trials}
            fresh = [self._promotion(i, rung) for i in points if i not in here]
            todo = fresh + todo
            running = sum(not t.state.is_finished for t in here.values())
            if running and not waiting:
                waiting = (
                    f"{running} of {len(here)} trainings to epoch {epochs} have not ended; what follows is "
                    "decided when they have"
                )
            if rung + 1 == len(lengths):
                break
            open_, places = coming + len(fresh) + running, sizes[rung + 1]
            sure = self._best_first(here)[: max(places - open_, 0)]
            coming = places - len(sure) if open_ else 0
            points = [i for i in sure if here[i].stop_reason not in _ENDED_ITSELF]
        return todo, waiting

    def _best_first(self, here: Mapping[int, Trial]) -> list[int]:
        """Points whose training on a rung is complete, best first."""
        done = [(self._sign * t.value, i) for i, t in here.items() if t.value is not None]
        return [i for _, i in sorted(done)]

    @property
    def _sign(self) -> int:
        return 1 if self.history.study.objective.direction == "minimize" else -1

    def _missing(self, batch: range) -> list[Proposal]:
        """First trainings of a batch that no trial stands for yet; a space may hold fewer points."""
        shortest = self.stage.lengths[0]
        missing = [i for i in batch if key(i, shortest) not in self.trials]
        drawn = self._draw(batch) if missing else []
        return [
            Proposal(
                key(i, shortest), i, self._at_rung(drawn[i - batch.start].params, 0), self._work(i, 0),
                sampler_state=drawn[i - batch.start].sampler_state,
            )
            for i in missing
            if i - batch.start < len(drawn)
        ]  # fmt: skip

    def _promotion(self, point: int, rung: int) -> Proposal:
        """The next training of a point: from its last snapshot, or from scratch where that is gone."""
        lengths = self.stage.lengths
        parent = self.trials[key(point, lengths[rung - 1])]
        left = [s for s in parent.snapshots if s < lengths[rung]]
        start = Start(parent.number, left[-1]) if left else None
        points = self.stage.batches()[-1].stop
        params = self._at_rung(parent.params, rung)
        return Proposal(
            key(point, lengths[rung]), point + rung * points, params, self._work(point, rung), start
        )

    def _at_rung(self, params: Params, rung: int) -> Params:
        """A training that ends at full length lets its rate fall there; what goes on from it does not."""
        last = rung + 1 == len(self.stage.lengths)
        return {**params, "cooldown": self.stage.cooldown} if last and self.stage.cooldown else params

    def _work(self, point: int, rung: int) -> Work:
        lengths = self.stage.lengths
        keep = rung + 1 < len(lengths) or self.stage.keeps_snapshots(self.history.study)
        return self.stage.work(self.history, point, epochs=lengths[rung], keep_snapshot=keep)

    # --- points -------------------------------------------------------------------------------------

    def _draw(self, batch: range) -> list[Drawn]:
        """The points of a batch. A later one is drawn from the batches before it alone."""
        stage, study = self.stage, self.history.study
        space = self._space(batch.start)
        source = Source(stage.name, self.history, self.seed, space, stage.held(study))
        if batch.start == 0:
            return source.first(len(batch), stage.cells, stage.warm_start)
        from tunesmith_studies.optuna_rows import number_of  # noqa: PLC0415

        before = {i: t for i in range(batch.start) if (t := self._whole(i)) is not None}
        hand = {number_of(t): t for t in self.history.trials if t.by_hand and fits(source.space, t.params)}
        told = Told(f"{study.name}/{stage.name}", source.space, study.objective, before | hand)
        return source.later(batch, self._best(batch.start), told, stage.sampler)

    def _space(self, points: int) -> Space:
        """What is open to points from this number on: wider where earlier batches were best at a border."""
        ends = [batch.stop for batch in self.stage.batches() if batch.stop <= points]
        batches = [Batch(self._best(end), [t for i in range(end) for t in self._rungs(i)]) for end in ends]
        return wider(self.stage.open_space(self.history.study), batches)

    def _best(self, points: int) -> list[Trial]:
        """The best three of the points below a number, each as a whole."""
        best = [self._whole(i) for i in self._ranked_points(points)[:CENTRES]]
        return [t for t in best if t is not None]

    def _whole(self, point: int) -> Trial | None:
        """A point as one trial with its whole curve: complete at full length or where it stopped for good,
        else as if pruned there. Its hyperparameters are those it was drawn with."""
        rungs = self._rungs(point)
        if not rungs:
            return None
        curve = tuple(p for t in rungs for p in t.curve)
        last = next((t for t in rungs[::-1] if t.state is TrialState.COMPLETE), rungs[0])
        if last.state is TrialState.COMPLETE and self._length(last) < self.stage.epochs:
            last = replace(last, state=TrialState.PRUNED, stop_reason=StopReason.PRUNED)
        drawn = {n: v for n, v in last.params.items() if n != "cooldown" or not self.stage.cooldown}
        return replace(last, params=drawn, curve=curve, sampler_state=rungs[0].sampler_state)

    def _length(self, trial: Trial) -> int:
        """Epochs that a complete training stands for: one that stopped for good would be the same at full
        length."""
        return self.stage.epochs if trial.stop_reason in _ENDED_ITSELF else trial.work.epochs

    def _rungs(self, point: int) -> list[Trial]:
        keys = [key(point, epochs) for epochs in self.stage.lengths]
        return [self.trials[k] for k in keys if k in self.trials]

    def _ranked_points(self, points: int) -> list[int]:
        """Points below a number by their longest complete training, then by its objective."""
        found = []
        for i in range(points):
            done = [t for t in self._rungs(i) if t.value is not None]
            if done:
                found.append((-self._length(done[-1]), self._sign * (done[-1].value or 0.0), i))
        return [i for *_, i in sorted(found)]

    # --- the result ---------------------------------------------------------------------------------

    def result(self) -> Done:
        """Each point once, by its longest training: lengths are not compared with each other."""
        stage, study, lengths = self.stage, self.history.study, self.stage.lengths
        whole = {t.number: t for i in range(stage.batches()[-1].stop) if (t := self._longest(i)) is not None}
        whole |= {t.number: t for t in self.history.trials if t.by_hand and t.value is not None}
        ordered = sorted(
            whole.values(), key=lambda t: (-self._length(t), self._sign * (t.value or 0.0), t.number)
        )
        if not ordered:
            return nothing_ranks(self.history)
        best, numbers = ordered[0], self._numbers()
        shown = show_params(best.params, stage.open_space(study).names())
        counts = ", ".join(f"{n} to epoch {e}" for e, n in zip(lengths, numbers["rungs"], strict=True))
        why = (
            f"{counts} in {stage.rounds + 1} batch{'es' * (stage.rounds > 0)}: {numbers['epochs']:g} epochs, "
            f"{numbers['epochs_from_scratch']:g} if every training began anew. Best is trial {best.number} "
            f"with {shown}: {study.objective.metric} {best.value:.4g}."
        )
        ranking = tuple(Ranked(t.number, t.value) for t in ordered if t.value is not None)
        chosen: dict[str, Any] = {"params": dict(best.params)}
        if past := self._past():
            chosen["widened"] = past
            ranges = ", ".join(f"{name} [{low:g}, {high:g}]" for name, (low, high) in past.items())
            why += f" The best lay at the border, so the space is wider from here on: {ranges}."
        return Done(StageResult(ranking=ranking, why=why, chosen=chosen, numbers=numbers))

    def _past(self) -> dict[str, list[float]]:
        """Ranges that grew past the study's while this stage ran."""
        before = _ranges(self.history.study.space)
        after = _ranges(self._space(self.stage.batches()[-1].start))
        return {name: list(ends) for name, ends in after.items() if ends != before[name]}

    def _longest(self, point: int) -> Trial | None:
        return next((t for t in self._rungs(point)[::-1] if t.value is not None), None)

    def _numbers(self) -> dict[str, Any]:
        planned = [t for t in self.history.trials if not t.by_hand]
        skipped = sum(t.start.step for t in planned if t.start is not None)
        found = spent(self.history)
        rungs = [sum(t.work.epochs == e for t in planned) for e in self.stage.lengths]
        return {**found, "rungs": rungs, "epochs_from_scratch": found["epochs"] + skipped}


def _ranges(space: Space) -> dict[str, tuple[float, float]]:
    return {name: (p.low, p.high) for name, p in space.items() if isinstance(p, Float)}


_ENDED_ITSELF = (StopReason.EARLY_STOPPING, StopReason.PLATEAU)
"""A trial that stopped for good keeps its place and needs no more epochs."""
