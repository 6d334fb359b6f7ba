"""What a view is asked for, and helpers that several views need."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy import Connection
from tunesmith_studies.importance import Evaluator

from tunesmith_service import store
from tunesmith_service.columns import Columns, Floats
from tunesmith_service.filters import MOST_CHARACTERS

X = Literal["trial", "time", "gpu_hours"]


class ChartQuery(BaseModel):
    """What of a study a chart shall show. A view ignores what means nothing to it."""

    model_config = ConfigDict(extra="forbid")

    filter: str = Field(
        default="",
        max_length=MOST_CHARACTERS,
        description="Only the trials that it picks; see docs/filters.md.",
    )
    points: int = Field(default=2000, ge=10, le=5000, description="Marks that a chart gets at most.")
    x: X = Field(default="trial", description="history: what the trials are laid out along.")
    across: str = Field(default="", max_length=128, description="map: the hyperparameter of its x axis.")
    stage: str = Field(
        default="", max_length=128, description="pruning, range_test: the stage that it looks at."
    )
    up: str = Field(default="", max_length=128, description="map: that of its y axis.")
    metric: str = Field(
        default="", max_length=128, description="curves: what was reported; default: the objective."
    )
    evaluator: Evaluator = Field(default="ped_anova", description="importance: by which method.")
    best: int = Field(
        default=100, ge=1, le=100, description="history: only the best so many percent of what has a value."
    )
    top: int | None = Field(
        default=None, ge=0, le=50,
        description="curves: lines of so many of the best; 0: of all; default: what `pick` has, else 10.",
    )  # fmt: skip
    pick: str = Field(
        default="", max_length=400, pattern="^[0-9,]*$",
        description="curves: numbers of trials, a comma between them; only these, unless `top` is given.",
    )  # fmt: skip
    train: bool = Field(default=True, description="curves: whether training stands beside validation.")


@dataclass(frozen=True, slots=True)
class Asked:
    """A question to a view.

    Attributes:
        columns: all trials of the study.
        keep: of each trial, whether the filter picks it.
        query: what of them, and how.
    """

    conn: Connection
    study: store.Study
    columns: Columns
    keep: NDArray[np.bool_]
    query: ChartQuery

    @property
    def sign(self) -> int:
        """Times the objective, smaller is better."""
        return 1 if self.study.direction == "minimize" else -1

    @property
    def metric(self) -> str:
        return str(self.study.spec["objective"]["metric"])


def figures(values: Floats | NDArray[np.int64]) -> list[float | int | None]:
    """For JSON: six significant digits, None for NaN."""
    if not np.issubdtype(values.dtype, np.floating):
        return [int(v) for v in values]
    return [None if np.isnan(v) else float(f"{v:.6g}") for v in values]


def thinned(order: Floats, wanted: int, value: Floats) -> NDArray[np.int64]:
    """Places of at most `wanted` of these points, in their order: of each bucket along `order` the lowest and
    the highest value, so that no extreme is lost. `order` ascends.
    """
    size = len(order)
    if size <= wanted:
        return np.arange(size)
    buckets = np.minimum((np.arange(size) * (wanted // 2)) // size, wanted // 2 - 1)
    by_value = np.lexsort((value, buckets))
    edges = np.flatnonzero(np.diff(buckets[by_value], prepend=-1))
    lowest = by_value[edges]
    highest = by_value[np.append(edges[1:], size) - 1]
    kept: NDArray[np.int64] = np.unique(np.concatenate((lowest, highest)))
    return kept


def described(asked: Asked) -> dict[str, Any]:
    """What every view says of the objective."""
    return {"metric": asked.metric, "direction": asked.study.direction}
