"""Coarse grid: every cell exactly once, for a few epochs."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, TypeAlias

from pydantic import Field

from tunesmith_studies.checked import Checked, Listed
from tunesmith_studies.grounds import Grounds, of_points
from tunesmith_studies.planning import Done, Earlier, History, Plan, Proposal, Proposals, Seed, Wait
from tunesmith_studies.planning import rank as by_objective
from tunesmith_studies.rates import Scaling, batch_factor, suggested
from tunesmith_studies.space import Choice, Float, Parameter, Params, Scalar, Space, tidy
from tunesmith_studies.stages.base import Forecast, Stage, failed, source_or_why
from tunesmith_studies.stages.border import Edge, edges, most_beyond, widened
from tunesmith_studies.stages.grid import (
    Cell,
    Group,
    as_chosen,
    ascending,
    cell_key,
    cells,
    missing,
    unfinished,
)
from tunesmith_studies.trial import Trial

if TYPE_CHECKING:
    from tunesmith_studies.study import StudySpec

MAX_CELLS = 10_000
STEP_SAMPLES = ("batch_size", "accumulation")
"""Hyperparameters that the rate follows."""


class Around(Checked):
    """Values of an axis as multiples of what a range test suggests for the cell's other values."""

    around: str | None = Field(default=None, description="Range test to centre on; default the last one.")
    factors: Listed[Annotated[float, Field(gt=0, allow_inf_nan=False)]] = Field(
        default=(0.1, 0.33, 1.0, 3.0), min_length=1, max_length=1000, description="Multiples, by the recipe."
    )


Axis: TypeAlias = Annotated[int, Field(ge=1, le=1000)] | Listed[Scalar] | Around


class CoarseGrid(Stage):
    """Every combination of the axes' values once: the lecture's first look at a space.

    Source: EECS 498/598 lecture 11 (J. Johnson, Michigan), step 4: 1 to 5 epochs a cell.
    """

    takes_budget: ClassVar[bool] = True
    takes_ranges: ClassVar[bool] = True

    kind: Literal["coarse_grid"] = "coarse_grid"
    axes: Mapping[str, Axis] = Field(
        default_factory=dict,
        description="By parameter: its values, how many points on its own scale, or, for lr, {around, "
        "factors} of a range test. Empty: every parameter, by its own `values`, else by `points`.",
    )
    points: int = Field(default=4, ge=1, le=1000, description="Points of an axis that names no values.")
    around_best: bool = Field(
        default=False, description="Hold all that no axis varies at the best trial of the source."
    )
    scale_lr: Scaling | None = Field(
        default=None,
        description="How the rate follows the samples of a step from where it was found: linear, sqrt, auto "
        "(by the optimizer) or none; default: auto around a range test, else none.",
    )
    extend: int = Field(
        default=0,
        ge=0,
        le=10,
        description="How many times the grid may go one step beyond an end at which the best cells lie, past "
        "the space if need be; the recipe says 2.",
    )
    keep_snapshots: bool | None = Field(
        default=None, description="Upload each trial's last snapshot; default: when a later stage needs it."
    )

    # --- checks -------------------------------------------------------------------------------------

    def problems(self, study: StudySpec) -> list[str]:
        found = [*self._axis_problems(study), *self._base_problems(study), *self._rate_problems(study)]
        if not found and (count := self._size(study)) > MAX_CELLS:
            found.append(
                f"the grid has {count} cells, more than {MAX_CELLS}; use fewer points or a random stage"
            )
        return found

    def _axis_problems(self, study: StudySpec) -> Iterator[str]:
        space = self.open_space(study)
        for name, axis in self.axes.items():
            if name in self.held(study):
                yield f"axis {name} is also fixed; leave it in one of them"
            elif name not in space:
                known = ", ".join(space.names()) or "none"
                yield f"axis {name} is not in the space; add it there, or use one of: {known}"
            elif isinstance(axis, tuple):
                yield from _bad_values(name, axis, space[name])
        if self.axes and not self.around_best:
            for name in space.names():
                if name not in self.axes:
                    yield f"it leaves {name} open; name it under axes, or hold it under the stage's fixed"
        elif not len(space):
            yield "the grid is empty: nothing in the space is left to vary; add a parameter to space"

    def _base_problems(self, study: StudySpec) -> Iterator[str]:
        if not self.around_best:
            return
        if self.source_in(study) is None:
            yield "around_best holds the best of an earlier stage, and none comes before; leave it out"
        if not self.axes:
            yield "around_best holds what no axis varies, and none is named; name some under axes"

    def _rate_problems(self, study: StudySpec) -> Iterator[str]:
        centred = [name for name, axis in self.axes.items() if isinstance(axis, Around)]
        for name in centred:
            if name != "lr":
                yield f"axis {name} is centred on a range test, which suggests rates alone; give it values"
            else:
                yield from self._test_problems(study)
        if self.scale_lr in (None, "none") or centred:
            return
        if not self.around_best:
            yield (
                f"scale_lr: {self.scale_lr} scales a rate that was found at some batch; set around_best, or "
                "centre axis lr on a range test"
            )
        elif "lr" in self.axes:
            yield "scale_lr would change the rates that axis lr names; leave one of them out"
        elif not any(name in self.axes for name in STEP_SAMPLES):
            yield f"scale_lr has nothing to follow; make one of {', '.join(STEP_SAMPLES)} an axis"

    def _test_problems(self, study: StudySpec) -> Iterator[str]:
        axis = self.axes["lr"]
        assert isinstance(axis, Around)
        tests = self.range_tests_before(study)
        if not tests:
            yield "axis lr is centred on a range test, and none comes before; add a stage kind: lr_range_test"
        elif axis.around is not None and axis.around not in tests:
            yield f"axis lr is around {axis.around!r}, which is no range test before it: {', '.join(tests)}"
        if not isinstance(study.space.root.get("lr"), Float):
            yield "axis lr is centred on a range test, and the space has no range for lr; give one"

    # --- the cells ----------------------------------------------------------------------------------

    def axis_values(self, study: StudySpec) -> dict[str, tuple[Scalar, ...]]:
        """The values of each axis, deciders of conditions first, numbers ascending; of one that is
        centred on a range test, its factors."""
        space, axes = self.open_space(study), {}
        for name in space.order():
            parameter, axis = space[name], self.axes.get(name, ())
            if name not in self.axes and self.around_best:
                continue
            if isinstance(axis, Around):
                values: tuple[Scalar, ...] = axis.factors
            elif isinstance(axis, tuple) and axis:
                values = tuple(parameter.cast(v) for v in axis)
            elif isinstance(axis, int):
                values = parameter.grid(axis)
            else:
                values = parameter.values or parameter.grid(self.points)
            axes[name] = values if isinstance(parameter, Choice) else tuple(sorted(set(values)))
        return axes

    def range_test_in(self, study: StudySpec) -> str | None:
        axis, tests = self.axes.get("lr"), self.range_tests_before(study)
        if not isinstance(axis, Around):
            return None
        return axis.around or (tests[-1] if tests else None)

    def _size(self, study: StudySpec) -> int:
        size = 1
        for values in self.axis_values(study).values():
            size *= len(values)
        return size

    def _usual(self, study: StudySpec) -> int:
        """Cells, without those beyond the border. Which axes are active around the best nobody knows yet."""
        if self.around_best:
            return self._size(study)
        axes = self.axis_values(study)
        is_plain = not any(parameter.when for _, parameter in study.space.items())
        if is_plain and all(len(set(values)) == len(values) for values in axes.values()):
            return self._size(study)  # no two cells are the same
        return sum(1 for _ in cells(self.open_space(study), axes, {}, {}))

    # --- planning -----------------------------------------------------------------------------------

    def plan(self, history: History, n: int, seed: Seed) -> Plan:
        grid = _Grid(self, history)
        if isinstance(grid.source, str):
            return failed(grid.source)
        todo, crossed = grid.cells(), list[Edge]()
        for round_ in range(self.extend + 1):
            if left := missing(todo, history):
                return Proposals(tuple(self._proposal(history, i, cell) for i, cell in left[:n]))
            if running := unfinished(todo, history):
                return Wait(f"{running} of {len(todo)} cells have not finished")
            found = grid.beyond(todo, self.extend - round_) if round_ < self.extend else []
            if not found:
                break
            crossed += [edge for edge, _ in found if edge not in crossed]
            todo = todo + [cell for _, cell in found]
        return grid.done(todo, crossed)

    def _proposal(self, history: History, ordinal: int, cell: Cell) -> Proposal:
        keep = self.keeps_snapshots(history.study) if self.keep_snapshots is None else self.keep_snapshots
        return Proposal(cell.key, ordinal, cell.params, self.work(history, ordinal, keep_snapshot=keep))

    @property
    def around(self) -> int:
        return 1 if self.around_best else 0

    def grounds(self, history: History) -> Grounds | None:
        grid = _Grid(self, history)
        if isinstance(grid.source, str):
            return None
        names = [n for n, axis in grid.axes.items() if len(axis) > 1]
        if "lr" in names and (isinstance(self.axes.get("lr"), Around) or self.around_best):
            ranges = of_points((cell.params for cell in grid.cells()), names)  # rates follow other values
        else:
            ranges = of_points(({n: v} for n in names for v in grid.axes[n]), names)
        return Grounds(ranges)

    def forecast(self, study: StudySpec, sources: Mapping[str, Forecast]) -> Forecast:
        usual = self._usual(study)
        trials = usual + (most_beyond(usual) if self.extend else 0)
        keep = self.keeps_snapshots(study) if self.keep_snapshots is None else self.keep_snapshots
        return Forecast(
            trials=trials,
            epochs=trials * self.epochs,
            snapshots=trials if keep else 0,
            likely_epochs=usual * self.epochs if trials > usual else None,
        )


@dataclass
class _Grid:
    """One look at a grid: its cells as the history lets them be."""

    stage: CoarseGrid
    history: History
    _cut: set[float] = field(default_factory=set)  # rates that the space's ends cut

    @cached_property
    def source(self) -> Earlier | str | None:
        """What the stage builds on; a sentence if there is none and it needs one."""
        return source_or_why(self.stage, self.history) if self.stage.around_best else None

    @cached_property
    def held(self) -> dict[str, Scalar]:
        return self.stage.held(self.history.study)

    @cached_property
    def base(self) -> dict[str, Scalar]:
        """What no axis varies."""
        best = self.source.best(1)[0].params if isinstance(self.source, Earlier) else {}
        return {**best, **self.held}

    @cached_property
    def _space(self) -> Space:
        return self.stage.space_in(self.history.study)

    @cached_property
    def axes(self) -> dict[str, tuple[Scalar, ...]]:
        return self.stage.axis_values(self.history.study)

    def cells(self) -> list[Cell]:
        # A best trial's values may be past the stage's own space: conditions are those of the whole.
        space = (
            self.history.study.space if self.stage.around_best else self.stage.open_space(self.history.study)
        )
        return list(cells(space, self.axes, self.base, self.held, self._with_rate))

    def _with_rate(self, params: Params) -> Params:
        """The cell with its rate, where that follows from its other values."""
        stage, axis = self.stage, self.stage.axes.get("lr")
        if isinstance(axis, Around):
            found = suggested(self.history, params, axis.around)
            if found is None:
                return {**params, "lr": self._without_test(params["lr"])}
            return {**params, "lr": self._inside(params["lr"] * found.rate(params, stage.scale_lr or "auto"))}  # type: ignore[operator]
        if stage.around_best and stage.scale_lr not in (None, "none") and "lr" in self.base:
            lr = self.base["lr"]
            assert isinstance(lr, int | float)
            return {**params, "lr": self._inside(lr * batch_factor(self.base, params, stage.scale_lr))}
        return params

    def _without_test(self, factor: Scalar) -> Scalar:
        """The rate of a factor where the range test suggests none: the place on the space's own grid."""
        factors = self.axes["lr"]
        return self._space["lr"].grid(len(factors))[factors.index(factor)]

    def _inside(self, rate: float) -> float:
        parameter = self._space.root.get("lr")
        if not isinstance(parameter, Float) or parameter.contains(rate):
            return tidy(rate)
        self._cut.add(tidy(rate))
        return min(max(rate, parameter.low), parameter.high)

    def groups(self, todo: Sequence[Cell]) -> list[Group]:
        """The axes as they came out; apart where the rates of cells follow from their other values."""
        deciders = self._deciders()
        keys = list(dict.fromkeys(tuple(c.params.get(name) for name in deciders) for c in todo))
        found = []
        for key in keys:
            own = [c for c in todo if tuple(c.params.get(name) for name in deciders) == key]
            given = {n: v for n, v in zip(deciders, key, strict=True) if v is not None}
            axes = {n: ascending(c.params[n] for c in own if n in c.params) for n in self.axes}
            found.append(Group(given, {n: v for n, v in axes.items() if v}))
        return found

    def _deciders(self) -> list[str]:
        """Axes that a cell's rate follows."""
        axis = self.stage.axes.get("lr")
        if not isinstance(axis, Around):
            return []
        tests = [s for e in self.history.earlier.values() for s in e.result.chosen.get("suggestions", ())]
        given = {name for s in tests for name in s["given"]}
        return [n for n in self.axes if n in given or n in STEP_SAMPLES]

    # --- the border ---------------------------------------------------------------------------------

    def beyond(self, todo: Sequence[Cell], steps: int) -> list[tuple[Edge, Cell]]:
        """Cells one step beyond each border on which the best of `todo` lie, as far as their share allows,
        of which `steps` may still be made."""
        trials = self._trials(todo)
        ranked = [r.trial for r in by_objective(self.history) if r.trial in trials]
        best = [trials[number] for number in ranked]
        usual = len(self.cells())
        room = math.ceil((usual + most_beyond(usual) - len(todo)) / steps)
        known, found = {c.key for c in todo}, list[tuple[Edge, Cell]]()
        for group in self.groups(todo):
            own = [t for t in trials.values() if group.holds(t.params)]
            # The best are those of the whole grid: an optimizer that loses asks for nothing.
            for edge in edges(self.history.study.space, group.axes, best, own) if best else ():
                for trial in edge.trials:
                    params = {**trial.params, edge.name: edge.beyond}
                    key = cell_key(params, self.held)
                    if group.holds(trial.params) and key not in known and len(found) < room:
                        known.add(key)
                        found.append((edge, Cell(key, params)))
        return found

    def _trials(self, todo: Sequence[Cell]) -> dict[int, Trial]:
        """Of these cells alone, so that a trial by hand moves no border."""
        keys = {cell.key for cell in todo}
        return {t.number: t for key, t in self.history.by_key().items() if key in keys}

    # --- the end ------------------------------------------------------------------------------------

    def done(self, todo: Sequence[Cell], crossed: Sequence[Edge]) -> Done:
        chosen = as_chosen(self.groups(todo))
        beyond = {edge.name: [e.beyond for e in crossed if e.name == edge.name] for edge in crossed}
        past = widened(self.history.study.space, beyond)
        if past:
            chosen["widened"] = past
        return self.stage.done(self.history, " ".join(self._why(todo, crossed, past)), **chosen)

    def _why(self, todo: Sequence[Cell], crossed: Sequence[Edge], past: Mapping[str, Any]) -> Iterator[str]:
        added = len(todo) - len(self.cells())
        usual = len(todo) - added
        yield f"{usual} cell{'s' if usual != 1 else ''} of {self.stage.length} each."
        if self._cut:
            shown = ", ".join(f"{v:.3g}" for v in sorted(self._cut))
            yield f"Rates outside the space were moved to its ends: {shown}."
        if crossed:
            steps = ", ".join(dict.fromkeys(edge.shown() for edge in crossed))
            yield f"The best lay at the border, so {added} more went one grid step beyond: {steps}."
        for name, (low, high) in past.items():
            yield f"The space of {name} is wider from here on: [{low:g}, {high:g}]."


def _bad_values(name: str, values: tuple[Scalar, ...], parameter: Parameter) -> list[str]:
    if not values:
        return [f"the grid is empty: axis {name} has no values; give some, or a number of points"]
    return [
        f"axis {name} holds {value!r}, which is outside {parameter.shown()}; move it in, or widen the space"
        for value in values
        if not parameter.contains(value)
    ]
