"""Coarse grid: every cell exactly once, for a few epochs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal, TypeAlias

from pydantic import Field

from tunesmith_studies.planning import History, Plan, Proposal, Proposals, Seed, Wait
from tunesmith_studies.space import Choice, Scalar
from tunesmith_studies.stages.base import Forecast, Stage
from tunesmith_studies.stages.grid import Cell, cells, missing, unfinished

if TYPE_CHECKING:
    from tunesmith_studies.study import StudySpec

Axis: TypeAlias = Annotated[int, Field(ge=1, le=1000)] | tuple[Scalar, ...]

MAX_CELLS = 10_000


class CoarseGrid(Stage):
    """Every combination of the axes' values once: the lecture's first look at a space.

    Source: EECS 498/598 lecture 11 (J. Johnson, Michigan), step 4: 1 to 5 epochs a cell.
    """

    takes_budget: ClassVar[bool] = True

    kind: Literal["coarse_grid"] = "coarse_grid"
    axes: Mapping[str, Axis] = Field(
        default_factory=dict,
        description="By parameter: its values, or how many points on its own scale. "
        "Empty: every parameter, by its own `values`, else by `points`.",
    )
    points: int = Field(default=4, ge=1, le=1000, description="Points of an axis that names no values.")
    keep_snapshots: bool | None = Field(
        default=None, description="Upload each trial's last snapshot; default: when a later stage needs it."
    )

    def problems(self, study: StudySpec) -> list[str]:
        space, found = self.open_space(study), []
        for name, axis in self.axes.items():
            if name in self.held(study):
                found.append(f"axis {name} is also fixed; leave it in one of them")
            elif name not in space:
                known = ", ".join(space.names()) or "none"
                found.append(f"axis {name} is not in the space; add it there, or use one of: {known}")
            elif isinstance(axis, tuple):
                found += _bad_values(name, axis, study)
        if self.axes:
            found += [
                f"it leaves {name} open; name it under axes, or hold it under the stage's fixed"
                for name in space.names()
                if name not in self.axes
            ]
        elif not len(space):
            found.append("the grid is empty: nothing in the space is left to vary; add a parameter to space")
        if not found and (count := self._size(study)) > MAX_CELLS:
            found.append(
                f"the grid has {count} cells, more than {MAX_CELLS}; use fewer points or a random stage"
            )
        return found

    def axis_values(self, study: StudySpec) -> dict[str, tuple[Scalar, ...]]:
        """The values of each axis, deciders of conditions first, numbers ascending."""
        space, axes = self.open_space(study), {}
        for name in space.order():
            parameter, axis = space[name], self.axes.get(name, ())
            if isinstance(axis, tuple) and axis:
                values = tuple(parameter.cast(v) for v in axis)
            elif isinstance(axis, int):
                values = parameter.grid(axis)
            else:
                values = parameter.values or parameter.grid(self.points)
            axes[name] = values if isinstance(parameter, Choice) else tuple(sorted(set(values)))
        return axes

    def cells(self, study: StudySpec) -> list[Cell]:
        held = self.held(study)
        return list(cells(self.open_space(study), self.axis_values(study), held, held))

    def plan(self, history: History, n: int, seed: Seed) -> Plan:
        todo = self.cells(history.study)
        keep = self.keeps_snapshots(history.study) if self.keep_snapshots is None else self.keep_snapshots
        if left := missing(todo, history):
            items = [(i, c, self.work(history, i, keep_snapshot=keep)) for i, c in left[:n]]
            return Proposals(tuple(Proposal(c.key, i, c.params, work) for i, c, work in items))
        if running := unfinished(todo, history):
            return Wait(f"{running} of {len(todo)} cells have not finished")
        axes = {k: list(v) for k, v in self.axis_values(history.study).items()}
        return self.done(history, f"{len(todo)} cells of {self.length} each.", axes=axes)

    def forecast(self, study: StudySpec, sources: Mapping[str, Forecast]) -> Forecast:
        trials = len(self.cells(study))
        keep = self.keeps_snapshots(study) if self.keep_snapshots is None else self.keep_snapshots
        return Forecast(trials=trials, epochs=trials * self.epochs, snapshots=trials if keep else 0)

    def _size(self, study: StudySpec) -> int:
        size = 1
        for values in self.axis_values(study).values():
            size *= len(values)
        return size


def _bad_values(name: str, values: tuple[Scalar, ...], study: StudySpec) -> list[str]:
    if not values:
        return [f"the grid is empty: axis {name} has no values; give some, or a number of points"]
    parameter = study.space[name]
    return [
        f"axis {name} holds {value!r}, which is outside {parameter.shown()}; move it in, or widen the space"
        for value in values
        if not parameter.contains(value)
    ]
