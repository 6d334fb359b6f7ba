"""Where halving's points come from: grid cells, a quasi-random sequence, the best's neighbours, a model."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from typing import TYPE_CHECKING, Any

from tunesmith_studies.planning import History, Seed
from tunesmith_studies.rates import ADAPTIVE, suggested
from tunesmith_studies.samplers import Told, TPESampler, fits, suggest
from tunesmith_studies.space import Choice, Float, Int, Params, Scalar, Space, canonical, tidy
from tunesmith_studies.stages.random import points as sequence
from tunesmith_studies.trial import Trial

if TYPE_CHECKING:
    from numpy.random import Generator

FACTORS = (1.0, 1 / 3, 3.0, 1 / 10)
"""Rates of cells as multiples of the suggested one (recipe §1.3); a short grid has the first of them."""
DECAYS = (1e-4, 1e-3, 1e-5)
"""Weight decays of cells where the space names none (recipe §4), again the usual one first."""
AROUND = (1 / 4, 2.0)
"""Quasi-random rates lie within these multiples of what is suggested for a point's momentum and batch.
Measured on three sets against the recipe's [1/10, 4]: below, no training of 20 epochs was won, and every
point costs a first rung; above, the fast beginners of a first rung were noisy at the end."""
NEAR = 0.1
"""How far a neighbour lies: the deviation of a normal step on each parameter's scale of length 1."""
CHANGES = 0.25
"""How often a neighbour differs in a choice."""
TRIES = 20
"""Draws for each new point before a space counts as used up."""


@dataclass(frozen=True, slots=True)
class Drawn:
    """A point to train: every hyperparameter, held ones included, and what its sampler remembers."""

    params: dict[str, Scalar]
    sampler_state: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Source:
    """Draws the points of one stage: what is open to it, what it holds, and what earlier stages found."""

    stage: str
    history: History
    seed: Seed
    space: Space
    held: Mapping[str, Scalar]

    # --- the first batch ----------------------------------------------------------------------------

    def first(self, points: int, grid: int, warm_start: int) -> list[Drawn]:
        """At most `points` different ones: the best of earlier stages, `grid` cells, a Sobol sequence."""
        found = _different(self._earlier(warm_start), points)
        found += _different(self._cells(), min(grid, points - len(found)), found)
        return found + _different(self._sequence(points * TRIES), points - len(found), found)

    def _earlier(self, top: int) -> Iterator[Drawn]:
        for stage in self.history.earlier.values():
            for trial in stage.best(top):
                values = {n: v for n, v in trial.params.items() if n in self.space}
                if fits(self.space, self.space.switched_on(values)):
                    yield self._drawn(values)

    def _cells(self) -> Iterator[Drawn]:
        """Rate against weight decay, everything else in its middle; none where the space has no rate."""
        if not isinstance(self.space.root.get("lr"), Float):
            return
        for decay, factor in product(self._decays(), FACTORS):
            middle = self.space.middle({**self.held, **decay})
            yield self._drawn(middle | {"lr": self._rate(middle, factor, FACTORS)})

    def _decays(self) -> list[dict[str, Scalar]]:
        axis = self.space.root.get("weight_decay")
        if not isinstance(axis, Float):
            return [{}]
        inside = [v for v in DECAYS if axis.contains(v)]
        return [{"weight_decay": v} for v in axis.values or inside or [axis.middle()]]

    def _sequence(self, most: int) -> Iterator[Drawn]:
        for i in range(most):
            (values,) = sequence(self.space, "sobol", self.seed, self.stage, [i])
            if isinstance(axis := self.space.root.get("lr"), Float):
                low, high = AROUND
                factor = low * (high / low) ** axis.position(float(values["lr"]))
                values = values | {"lr": self._rate({**self.held, **values}, factor, AROUND)}
            yield self._drawn(values)

    def _rate(self, params: Params, factor: float, factors: Sequence[float]) -> float:
        """`factor` times the rate suggested for these hyperparameters, within the space; without a range
        test the place on the whole scale that `factor` has among `factors`."""
        axis = self.space["lr"]
        assert isinstance(axis, Float)
        found = suggested(self.history, params)
        if found is None:
            place = Float(low=min(factors), high=max(factors), log=True).position(factor)
            return tidy(axis.value(place))
        rate = factor * found.rate(params) * momentum_factor(found.at, params)
        return tidy(min(max(rate, axis.low), axis.high))

    # --- later batches ------------------------------------------------------------------------------

    def later(self, numbers: range, best: Sequence[Trial], told: Told, model: TPESampler) -> list[Drawn]:
        """New points, fewer if none is left: by turns a neighbour of one of the best and the model's."""
        asked = [i for i in numbers if i % 2 or not best]
        seeds = {i: self.seed.stream(self.stage, i) for i in numbers}
        suggestions = dict(zip(asked, suggest(model, told, asked, seeds), strict=True))
        found: list[Drawn] = []
        for i in numbers:
            if i in suggestions:
                drawn = [self._drawn(suggestions[i].params, suggestions[i].state)]
            else:
                drawn = list(self._neighbours(best[i // 2 % len(best)].params, seeds[i]))
            found += _different(drawn, 1, [*found, *(Drawn(dict(t.params)) for t in told.trials.values())])
        return found

    def _neighbours(self, centre: Params, seed: int) -> Iterator[Drawn]:
        import numpy as np  # noqa: PLC0415 - reading a study does not need it

        rng = np.random.default_rng(seed)
        for _ in range(TRIES):
            moved = {
                name: _moved(self.space[name], centre[name], rng)
                if name in centre
                else self.space[name].value(float(rng.random()))
                for name in self.space.order()
            }
            yield self._drawn(moved)

    def _drawn(self, values: Params, state: Mapping[str, Any] | None = None) -> Drawn:
        return Drawn(self.history.study.space.switched_on({**self.held, **values}), state or {})


def momentum_factor(before: Params, after: Params) -> float:
    """By how much the rate grows from one momentum to another, so that steps stay as long.

    A constant gradient moves the weights by lr / (1 - momentum) a step; optimizers that divide by the
    gradient's size have no such factor here, nor have momenta that the study does not name.
    """
    if after.get("optimizer", "sgd") in ADAPTIVE:
        return 1.0
    old, new = before.get("momentum"), after.get("momentum")
    if not isinstance(old, int | float) or not isinstance(new, int | float) or max(old, new) >= 1:
        return 1.0
    return (1 - new) / (1 - old)


def _moved(parameter: Float | Int | Choice, value: Scalar, rng: Generator) -> Scalar:
    """A value nearby: a normal step on the parameter's scale, reflected at its ends; of a choice
    mostly the same one, else the next of numbers or any other of names."""
    if isinstance(parameter, Choice):
        others = [v for v in parameter.values if v != value]
        if not others or rng.random() >= CHANGES:
            return value
        if all(isinstance(v, int | float) and not isinstance(v, bool) for v in parameter.values):
            order = sorted(parameter.values, key=float)
            here = order.index(value)
            others = [order[i] for i in (here - 1, here + 1) if 0 <= i < len(order)]
        return others[int(rng.integers(len(others)))]
    assert isinstance(value, int | float)
    place = abs(parameter.position(value) + NEAR * float(rng.standard_normal()))
    near = parameter.value(min(place, 2 - place))
    return tidy(near) if isinstance(near, float) else near


def _different(drawn: Iterable[Drawn], most: int, known: Sequence[Drawn] = ()) -> list[Drawn]:
    """The first `most` that differ from each other and from `known`."""
    seen, found = {canonical(d.params) for d in known}, []
    if most <= 0:
        return []
    for one in drawn:
        if canonical(one.params) not in seen:
            seen.add(canonical(one.params))
            found.append(one)
            if len(found) == most:
                break
    return found
