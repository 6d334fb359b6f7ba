"""The target of a data file: what its classes are, and how its rows are cut into splits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tunesmith_workers.data import Split, Splits, stratified
from tunesmith_workers.tasks.registry import TaskError

SPLIT_SEED = 0
TARGET_NAMES = ("target", "label", "class", "y")
_MAX_CLASSES = 1000


@dataclass(frozen=True, slots=True)
class Column:
    """A column as numpy has it, shape (n,): numbers, truth values or texts.

    `missing` counts what the file left out; `values` means nothing then.
    """

    name: str
    values: NDArray[Any]
    missing: int = 0

    def refuse_missing(self) -> None:
        rows, missing = len(self.values), self.missing
        if self.values.dtype.kind == "f" and not missing:
            missing = int(np.count_nonzero(~np.isfinite(self.values)))
        if missing:
            raise TaskError(
                f"column {self.name!r} has {missing} missing or infinite values in {rows} rows; "
                "fill them in or drop those rows"
            )


@dataclass(frozen=True, slots=True)
class Targets:
    """Class numbers of all rows, shape (n,), how many classes there are, and the rows of each split."""

    codes: NDArray[np.int64]
    classes: int
    parts: Mapping[str, NDArray[np.int64]]

    def splits(self, x: Tensor) -> Splits:
        y = torch.from_numpy(self.codes)
        split = {part: Split(x[rows], y[rows]) for part, rows in self.parts.items()}
        return Splits(split["train"], split["val"], split["test"], seed=SPLIT_SEED)


def target_of(names: Sequence[str]) -> int:
    """Index of the target: a column called target, label, class or y (in this order), else the last."""
    lowered = [name.strip().lower() for name in names]
    return next((lowered.index(n) for n in TARGET_NAMES if n in lowered), len(names) - 1)


def read_target(column: Column, tests: int = 0) -> Targets:
    """Classes and splits. Refuses missing values, a single class, and what is no class.

    Args:
        tests: how many of the last rows are a test split that the file gives.
    """
    column.refuse_missing()
    values, name = column.values, column.name
    if values.dtype.kind not in "biufUS":
        raise TaskError(f"target {name!r} holds {values.dtype}; only numbers and texts are read")
    found, codes = np.unique(values, return_inverse=True)
    if len(found) == 1:
        raise TaskError(
            f"target {name!r} has a single class ({found[0]!s} in all {len(values)} rows); "
            "a classifier needs at least two"
        )
    if values.dtype.kind == "f" and not np.all(found == np.round(found)):
        raise TaskError(
            f"target {name!r} holds {len(found)} different numbers such as {found[0]:g} and {found[1]:g}: "
            "that is regression, which is not built in; give classes, or write a task file with a loss of "
            "your own"
        )
    if len(found) > min(_MAX_CLASSES, max(2, len(values) // 2)):
        raise TaskError(
            f"target {name!r} holds {len(found)} different values in {len(values)} rows, too many to be "
            "classes; the target is the column named target, label, class or y, else the last"
        )
    codes = codes.astype(np.int64)
    return Targets(codes, len(found), _parts(codes, len(found), tests))


def _parts(codes: NDArray[np.int64], classes: int, tests: int) -> dict[str, NDArray[np.int64]]:
    own = len(codes) - tests
    shares = {"val": 0.2} if tests else {"val": 0.2, "test": 0.2}
    parts = stratified(codes[:own], shares, SPLIT_SEED)
    if tests:
        parts["test"] = np.arange(own, len(codes))
    if empty := [name for name, rows in parts.items() if len(rows) == 0]:
        raise TaskError(
            f"{len(codes)} rows in {classes} classes leave the {empty[0]} split empty; "
            "a class needs at least 3 rows to be in every split"
        )
    return parts
