"""Model-based search: one of Optuna's samplers proposes trials from the results so far."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from tunesmith_studies.checked import Listed
from tunesmith_studies.grounds import Grounds, of_space
from tunesmith_studies.planning import History, Plan, Proposal, Proposals, Seed, Wait
from tunesmith_studies.samplers import BruteForceSampler, SamplerSpec, Told, TPESampler, fits, suggest
from tunesmith_studies.space import Float, Params, Scalar, Space, canonical
from tunesmith_studies.stages.base import Forecast, Stage
from tunesmith_studies.stages.grid import cells
from tunesmith_studies.stages.random import missing, point_key
from tunesmith_studies.trial import Trial

if TYPE_CHECKING:
    from tunesmith_studies.study import StudySpec

EARLIER = 2_000_000
"""Numbers under which a sampler sees trials of earlier stages, so that ordinals stay this stage's."""


class Sampler(Stage):
    """`trials` proposals of a model, each made from everything that has finished before it starts.

    The model learns from this stage, and from trials of earlier stages that had the same epochs,
    data fraction, schedule and held values. Others enter only as points to try first.
    """

    draws_drafts: ClassVar[bool] = True
    takes_ranges: ClassVar[bool] = True

    kind: Literal["sampler"] = "sampler"
    trials: int = Field(ge=1, le=100_000)
    sampler: SamplerSpec = Field(default=TPESampler(), description="kind and Optuna's own options.")
    warm_start: int = Field(default=0, ge=0, le=1000, description="Try this many of the source's best first.")
    points: Listed[Mapping[str, Scalar]] = Field(default=(), description="Points to try first of all.")

    # --- checks -------------------------------------------------------------------------------------

    def problems(self, study: StudySpec) -> list[str]:
        return list(self._problems(study, self.open_space(study)))

    def _problems(self, study: StudySpec, space: Space) -> Iterator[str]:
        if not len(space):
            yield "nothing in the space is left to vary; add a parameter to space"
        for package in self.sampler.missing():
            yield (
                f"sampler {self.sampler.kind} needs the package {package}, which this server lacks; "
                f"install it there (pip install {package}), or choose another sampler such as tpe"
            )
        if not self.sampler.conditions and any(p.when for _, p in space.items()):
            yield f"sampler {self.sampler.kind} cannot handle conditions (when); choose tpe with group: true"
        if isinstance(self.sampler, BruteForceSampler):
            for name, parameter in space.items():
                if isinstance(parameter, Float):
                    yield f"sampler brute_force needs choices or whole numbers, and {name} is a float"
        for i, point in enumerate(self.points):
            for sentence in space.problems(point):
                yield f"points/{i}: {sentence}; correct it, or leave the point out"
        if self.warm_start and self.source_in(study) is None:
            yield "warm_start takes the best of an earlier stage, and none comes before; leave it out"

    # --- planning -----------------------------------------------------------------------------------

    def plan(self, history: History, n: int, seed: Seed) -> Plan:
        total = self._total(history.study)
        left = missing(total, history, n)
        if left:
            return Proposals(tuple(self._propose(history, left[:n], seed)) if n else (), draft=True)
        running = sum(not t.state.is_finished for t in history.trials if not t.by_hand)
        if running:
            return Wait(f"{running} of {total} trials have not finished")
        return self.done(history, f"{total} proposals of {self.sampler.kind}, {self.epochs} epochs each.")

    def _total(self, study: StudySpec) -> int:
        """Brute force ends when nothing is left."""
        if not isinstance(self.sampler, BruteForceSampler):
            return self.trials
        space = self.open_space(study)
        axes = {n: p.every() for n in space.order() if not isinstance(p := space[n], Float)}
        return min(self.trials, sum(1 for _ in cells(space, axes, {}, {})))

    def _propose(self, history: History, ordinals: list[int], seed: Seed) -> Iterator[Proposal]:
        study = history.study
        space, held = self.open_space(study), self.held(study)
        keep = self.keeps_snapshots(study)
        first = self._first_points(history, space)
        told = self._told(history, space)
        seeds = {i: seed.stream(self.name, i) for i in ordinals}
        given = {i: first[i] for i in ordinals if i < len(first)}
        asked = [i for i in ordinals if i not in given]
        suggestions = dict(zip(asked, suggest(self.sampler, told, asked, seeds), strict=True))
        for i in ordinals:
            state = suggestions[i].state if i in suggestions else {}
            values = suggestions[i].params if i in suggestions else given[i]
            params = study.space.switched_on({**held, **values})
            work = self.work(history, i, keep_snapshot=keep)
            yield Proposal(point_key(i), i, params, work, sampler_state=state)

    def _first_points(self, history: History, space: Space) -> list[dict[str, Scalar]]:
        """Points to try before the model is asked: those named, then the source's best that fit."""
        found = [dict(p) for p in self.points]
        source = history.source_of(self) if self.warm_start else None
        for trial in source.best(self.warm_start) if source is not None else ():
            point = {n: v for n, v in trial.params.items() if n in space}
            point = space.switched_on(point)
            if fits(space, point):
                found.append(point)
        return list({canonical(p): p for p in found}.values())

    def _told(self, history: History, space: Space) -> Told:
        """What the model learns from, with the numbers it sees."""
        from tunesmith_studies.optuna_rows import number_of  # noqa: PLC0415

        earlier = {
            EARLIER + trial.number: trial
            for stage in history.earlier.values()
            for trial in stage.trials
            if self._is_comparable(trial, history.study, space)
        }
        own = {number_of(t): t for t in history.trials if not t.by_hand or fits(space, t.params)}
        name = f"{history.study.name}/{self.name}"
        return Told(name, space, history.study.objective, own, earlier)

    def _is_comparable(self, trial: Trial, study: StudySpec, space: Space) -> bool:
        """Same budget, data, schedule and held values, from scratch or not, and a point of this space."""
        work, held = trial.work, self.held(study)
        return (
            trial.state.is_finished
            and work.kind == "train"
            and work.unit == "epoch"
            and work.epochs == self.epochs
            and work.data_fraction == self.data_fraction
            and work.fold is None  # judged by another part of the data
            and _same_held(trial.params, held, space)
            and fits(space, trial.params)
        )

    def grounds(self, history: History) -> Grounds:
        return of_space(self.open_space(history.study))

    def forecast(self, study: StudySpec, sources: Mapping[str, Forecast]) -> Forecast:
        trials = self._total(study)
        snapshots = trials if self.keeps_snapshots(study) else 0
        return Forecast(trials=trials, epochs=trials * self.epochs, snapshots=snapshots)


def _same_held(params: Params, held: Params, space: Space) -> bool:
    """Whether what does not vary here, the schedule above all, was the same there."""
    names = (held.keys() | params.keys()) - set(space.names())
    return all(params.get(n) == held.get(n) for n in names)
