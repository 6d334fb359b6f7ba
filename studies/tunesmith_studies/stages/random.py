"""Random and quasi-random search: points that no result changes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import islice
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from tunesmith_studies.grounds import Grounds, of_space
from tunesmith_studies.planning import History, Plan, Proposal, Proposals, Seed, Wait
from tunesmith_studies.space import Scalar, Space, tidy
from tunesmith_studies.stages.base import Forecast, Stage

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from tunesmith_studies.study import StudySpec

Method = Literal["uniform", "sobol", "halton"]


class Random(Stage):
    """`trials` points, uniform on the parameters' own scales, or of a scrambled sequence.

    The sequences fill a space more evenly and do not depend on the order of results. Sources:
    Bergstra & Bengio, JMLR 13, 2012; Bousquet et al., arXiv 1706.03200.
    """

    takes_budget: ClassVar[bool] = True
    takes_ranges: ClassVar[bool] = True

    kind: Literal["random"] = "random"
    trials: int = Field(ge=1, le=100_000)
    method: Method = "uniform"

    def problems(self, study: StudySpec) -> list[str]:
        if not len(self.open_space(study)):
            return ["nothing in the space is left to vary; add a parameter to space"]
        return []

    def plan(self, history: History, n: int, seed: Seed) -> Plan:
        left = missing(self.trials, history, n)
        if left:
            study = history.study
            keep = self.keeps_snapshots(study)
            params = points(self.open_space(study), self.method, seed, self.name, left[:n])
            return Proposals(
                tuple(
                    Proposal(
                        point_key(i),
                        i,
                        study.space.switched_on({**self.held(study), **values}),
                        self.work(history, i, keep_snapshot=keep),
                    )
                    for i, values in zip(left, params, strict=False)
                )
            )
        running = sum(not t.state.is_finished for t in history.trials if not t.by_hand)
        if running:
            return Wait(f"{running} of {self.trials} trials have not finished")
        return self.done(history, f"{self.trials} {self.method} points of {self.length} each.")

    def grounds(self, history: History) -> Grounds:
        return of_space(self.open_space(history.study))

    def forecast(self, study: StudySpec, sources: Mapping[str, Forecast]) -> Forecast:
        snapshots = self.trials if self.keeps_snapshots(study) else 0
        return Forecast(trials=self.trials, epochs=self.trials * self.epochs, snapshots=snapshots)


def missing(total: int, history: History, n: int) -> list[int]:
    """The first ordinals below `total` whose points nobody has tried, at most n and at least one."""
    taken = history.keys
    return list(islice((i for i in range(total) if point_key(i) not in taken), max(n, 1)))


def point_key(ordinal: int) -> str:
    return f"point:{ordinal}"


def points(
    space: Space, method: Method, seed: Seed, stage: str, ordinals: Iterable[int]
) -> list[dict[str, Scalar]]:
    """Values of all parameters at these ordinals of a stage's sequence, active or not.

    Each parameter has a dimension of its own whether it is active or not, so that conditions do
    not shift the others.
    """
    rows = [_position(len(space), method, seed, stage, i) for i in ordinals]
    return [
        {
            name: _shown(parameter.value(float(p)))
            for (name, parameter), p in zip(space.items(), row, strict=True)
        }
        for row in rows
    ]


def _position(dimensions: int, method: Method, seed: Seed, stage: str, ordinal: int) -> NDArray[np.float64]:
    """A point of [0, 1)^dimensions. A sequence is scrambled by (study, stage), uniform drawn by ordinal."""
    import numpy as np  # noqa: PLC0415 - reading a study needs neither
    from scipy.stats import qmc  # noqa: PLC0415

    if method == "uniform":
        row: NDArray[np.float64] = np.random.default_rng(seed.stream(stage, ordinal)).random(dimensions)
        return row
    kind = qmc.Sobol if method == "sobol" else qmc.Halton
    engine = kind(dimensions, scramble=True, rng=np.random.default_rng(seed.stream(stage)))
    if ordinal:
        engine.fast_forward(ordinal)
    row = engine.random(1)[0]
    return row


def _shown(value: Scalar) -> Scalar:
    return tidy(value) if isinstance(value, float) else value
