"""Refined grid: finer cells around the best of an earlier grid."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from tunesmith_studies.checked import Listed
from tunesmith_studies.grounds import Grounds, of_points, step_shown
from tunesmith_studies.planning import Earlier, History, Plan, Proposal, Proposals, Seed, Wait
from tunesmith_studies.planning import rank as by_objective
from tunesmith_studies.space import Choice, Float, Int, Scalar, canonical, tidy
from tunesmith_studies.stages.base import Forecast, Stage, failed, source_or_why
from tunesmith_studies.stages.coarse_grid import CoarseGrid
from tunesmith_studies.stages.grid import (
    Cell,
    Group,
    as_chosen,
    cell_key,
    cells,
    group_of,
    groups_of,
    missing,
    unfinished,
    unique,
    with_cells,
)
from tunesmith_studies.trial import Start, Trial

if TYPE_CHECKING:
    from tunesmith_studies.study import StudySpec

SAME = 1e-9
"""Two places on a scale from 0 to 1 closer than this are one."""


class RefineGrid(Stage):
    """Cells around the best `top` of a grid, `factor` times closer together, trained for longer.

    Each centre gets itself and one finer step to either side of it along every axis. A centre on
    the edge of its grid gets a whole grid step beyond as well, as far as the space goes.
    """

    takes_budget: ClassVar[bool] = True

    kind: Literal["refine_grid"] = "refine_grid"
    top: int = Field(default=3, ge=1, le=100, description="How many of the source's best are centres.")
    factor: float = Field(default=2.0, gt=1, le=100, description="Cells lie this many times closer.")
    axes: Listed[str] = Field(default=(), description="What to refine; default every number of the grid.")
    rounds: int = Field(default=1, ge=1, le=10, description="Refine again around the best found so far.")
    continue_snapshots: bool = Field(
        default=False, description="Centres go on from their snapshots instead of training again."
    )

    @property
    def goes_on_from_source(self) -> bool:
        return self.continue_snapshots

    def problems(self, study: StudySpec) -> list[str]:
        source = self.source_in(study)
        if not isinstance(source, CoarseGrid | RefineGrid):
            was = f"and {source.name} is of kind {source.kind}" if source else "but none comes before it"
            return [f"it refines a coarse_grid or a refine_grid, {was}; name one as its source"]
        found = []
        for name in self.axes:
            if name not in self.open_space(study):
                found.append(f"axis {name} is not left to vary in the space; use a parameter that is")
            elif isinstance(study.space[name], Choice):
                found.append(f"axis {name} is a choice, which has no finer steps; leave it out of axes")
        if self.continue_snapshots:
            found += self._cannot_continue(study, source)
        return found

    def _cannot_continue(self, study: StudySpec, source: Stage) -> Iterator[str]:
        if self.epochs <= source.epochs:
            yield (
                f"continue_snapshots needs more epochs than its source's {source.epochs}, got {self.epochs}; "
                "raise epochs, or leave continue_snapshots out"
            )
        if self.data_fraction != source.data_fraction:
            yield (
                f"continue_snapshots needs the source's data_fraction {source.data_fraction:g}, "
                f"got {self.data_fraction:g}; make them equal, or leave continue_snapshots out"
            )
        yield from self.prolonging_problems(study)

    # --- planning -----------------------------------------------------------------------------------

    def plan(self, history: History, n: int, seed: Seed) -> Plan:
        source = source_or_why(self, history)
        if isinstance(source, str):
            return failed(source)
        if "axes" not in source.result.chosen:
            return failed(f"{self.name} refines a grid, and {source.stage.name} is a {source.stage.kind}.")
        groups = groups_of(source.result.chosen)
        todo = self._around(source.best(self.top), groups, history.study, source)
        for round_ in range(1, self.rounds + 1):
            if left := missing(todo, history):
                return Proposals(tuple(self._proposal(history, i, cell) for i, cell in left[:n]))
            if running := unfinished(todo, history):
                return Wait(f"{running} of {len(todo)} cells of round {round_} have not finished")
            groups = with_cells(groups, todo)
            if round_ < self.rounds:
                todo = unique(todo + self._around(self._best(history, todo), groups, history.study))
        why = f"{len(todo)} cells of {self.length} around the best {self.top} of {source.stage.name}."
        grounds = self._grounds(source, todo, history.study).to_json()
        return self.done(history, why, grounds=grounds, **as_chosen(groups))

    def grounds(self, history: History) -> Grounds | None:
        source = source_or_why(self, history)
        if isinstance(source, str) or "axes" not in source.result.chosen:
            return None
        groups = groups_of(source.result.chosen)
        first = self._around(source.best(self.top), groups, history.study)
        return self._grounds(source, first, history.study)

    @property
    def around(self) -> int:
        return self.top

    def _grounds(self, source: Earlier, todo: Sequence[Cell], study: StudySpec) -> Grounds:
        """Of these cells, and as far from the best centre as the first round goes."""
        centres, groups = source.best(self.top), groups_of(source.result.chosen)
        base = study.space.switched_on({**centres[0].params, **self.held(study)})
        axes = {n: a for n, a in group_of(groups, centres[0].params).axes.items() if n in base}
        placed = {n: self._steps(study, n, axis, base) for n, axis in axes.items()}
        moved = [n for n, values in placed.items() if len(values) > 1]
        steps = {}
        for name in moved:
            parameter = study.space[name]
            assert isinstance(parameter, Float | Int)  # nothing else has finer steps
            if step := step_shown(parameter, base[name], placed[name]):
                steps[name] = step
        numbers = tuple(t.number for t in centres)
        return Grounds(of_points((c.params for c in todo), moved), steps, source.stage.name, numbers)

    def _best(self, history: History, todo: Sequence[Cell]) -> tuple[Trial, ...]:
        """Centres of the next round: from the cells so far alone, so that they stand while it runs."""
        keys = {cell.key for cell in todo}
        trials = {t.number: t for key, t in history.by_key().items() if key in keys}
        ranked = [r for r in by_objective(history) if r.trial in trials]
        return tuple(trials[r.trial] for r in ranked[: self.top])

    def _proposal(self, history: History, ordinal: int, cell: Cell) -> Proposal:
        keep = self.keeps_snapshots(history.study)
        work = self.work(history, ordinal, keep_snapshot=keep)
        return Proposal(cell.key, ordinal, cell.params, work, cell.start)

    def _around(
        self, centres: Sequence[Trial], groups: list[Group], study: StudySpec, source: Earlier | None = None
    ) -> list[Cell]:
        """Cells of all centres, best centre first; each once."""
        space, held, found = study.space, self.held(study), []
        for centre in centres:
            base = space.switched_on({**centre.params, **held})
            axes = group_of(groups, centre.params).axes
            finer = {name: self._steps(study, name, axes[name], base) for name in axes if name in base}
            here = list(cells(space, finer, base, held))
            start = self._start(centre) if source is not None else None
            if start is not None and canonical(base) == canonical(centre.params):
                own = cell_key(base, held)
                here = [replace(c, start=start) if c.key == own else c for c in here]
            found += here
        return unique(found)

    def _start(self, centre: Trial) -> Start | None:
        """The centre's last snapshot, if the trial left one and there is something left to train."""
        if not self.continue_snapshots or not centre.snapshots or centre.snapshots[-1] >= self.epochs:
            return None
        return Start(centre.number, centre.snapshots[-1])

    def _steps(
        self, study: StudySpec, name: str, grid: Sequence[Scalar], base: Mapping[str, Scalar]
    ) -> list[Scalar]:
        parameter = study.space.root.get(name)
        held = name in self.held(study) or (bool(self.axes) and name not in self.axes)
        if held or not isinstance(parameter, Float | Int):
            return [base[name]]
        return finer_steps(parameter, [v for v in grid if not isinstance(v, str)], base[name], self.factor)

    def _may_continue(self, study: StudySpec, source: Stage) -> bool:
        """Whether centres stay as they were trained: what is held to another value trains again."""
        before = source.held(study)
        return self.continue_snapshots and all(before.get(n) == v for n, v in self.held(study).items())

    def forecast(self, study: StudySpec, sources: Mapping[str, Forecast]) -> Forecast:
        """At most four values along each numeric axis: itself, a finer step to either side, one beyond.

        Usually three; and of centres beside each other, as the best of a grid mostly are, each shares one
        side of its block with another.
        """
        source = self.source_in(study)
        before = sources[source.name].trials if source is not None and source.name in sources else self.top
        space = self.open_space(study)
        # What the source holds at one value has no neighbour there to lie closer to.
        still = source.held(study) if source is not None else {}
        numeric = [n for n in space.names() if not isinstance(space[n], Choice) and n not in still]
        refined = [n for n in numeric if not self.axes or n in self.axes]
        centres, dims = min(self.top, before), len(refined)
        trials = likely = 0
        for _ in range(self.rounds):
            around = min(self.top, trials) or centres  # a first round may leave more than its source had
            trials += around * 4**dims
            likely += around * 3**dims - ((around - 1) * 3 ** (dims - 1) if dims else 0)
        saved = centres * source.epochs if source is not None and self._may_continue(study, source) else 0
        return Forecast(
            trials=trials,
            epochs=trials * self.epochs - saved,
            snapshots=trials if self.keeps_snapshots(study) else 0,
            likely_epochs=likely * self.epochs - saved,
        )


def finer_steps(parameter: Float | Int, grid: Sequence[float], centre: Scalar, factor: float) -> list[Scalar]:
    """The centre's value and its finer neighbours along one axis, ascending, within the parameter.

    A finer step is the gap to the next value of `grid` on that side, divided by `factor` on the
    parameter's scale. On an edge of the grid the inner gap counts for both sides, and a whole gap
    beyond is added. Zero beside a log range is a point of its own: it has no neighbour but a finer
    step below the smallest positive value, and is no neighbour of any.
    """
    assert isinstance(centre, int | float)
    scale = parameter.positive() if isinstance(parameter, Float) else parameter
    places = sorted({scale.position(v) for v in grid if v != 0 or not _has_zero(parameter)})
    if len(places) < 2:
        return [centre]
    if centre == 0 and _has_zero(parameter):
        below = max(places[0] - (places[1] - places[0]) / factor, 0.0)
        return [centre] if places[0] - below < SAME else [centre, _at(scale, below)]
    here = scale.position(centre)
    lower = [p for p in places if p < here - SAME]
    upper = [p for p in places if p > here + SAME]
    down = here - lower[-1] if lower else upper[0] - here
    up = upper[0] - here if upper else down
    steps = [here - down / factor, here + up / factor]
    steps += [] if lower else [here - down]
    steps += [] if upper else [here + up]
    inside = sorted({min(max(p, 0.0), 1.0) for p in steps})
    found = [_at(scale, p) for p in inside if abs(p - here) > SAME]
    return sorted({centre, *found}, key=float)


def _at(scale: Float | Int, place: float) -> Scalar:
    value = scale.value(place)
    return tidy(value) if isinstance(value, float) else value


def _has_zero(parameter: Float | Int) -> bool:
    return isinstance(parameter, Float) and parameter.zero
