"""Tasks made from a file: `tunesmith worker --data name=file`, no code needed.

| file | holds |
|---|---|
| .npz | `X` and `y`; or `X_train`, `y_train`, `X_test`, `y_test`, where the test split is given |
| .csv, .parquet | one row a sample; the target is the column named target, label, class or y, else the last |

`X` of shape (n, d) is a table, `X` of bytes and shape (n, h, w) or (n, h, w, channels) are images.
The target is a class: texts, or few whole numbers. Rows are cut 60/20/20, stratified, with a fixed
seed; where a test split is given, a fifth of the rest is for validation.
"""

from __future__ import annotations

import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tunesmith_workers.tasks import images, table
from tunesmith_workers.tasks.registry import Task, TaskError
from tunesmith_workers.tasks.targets import Column, read_target, target_of

_TRAIN_TEST = frozenset({"X_train", "y_train", "X_test", "y_test"})
_KNOWN = _TRAIN_TEST | {"X", "y"}


def task(name: str, path: Path) -> Task:
    """Raises TaskError, naming the file and what in it cannot be used, and what to do."""
    try:
        if not path.is_file():
            raise TaskError("there is no such file")
        return _from_npz(name, path) if path.suffix == ".npz" else _from_rows(name, path)
    except TaskError as e:
        raise TaskError(f"--data {name}={path}: {e}") from e


def _from_rows(name: str, path: Path) -> Task:
    columns = table.read(path)
    target = target_of([c.name for c in columns])
    targets = read_target(columns[target])
    return table.task(name, columns[:target] + columns[target + 1 :], targets)


def _from_npz(name: str, path: Path) -> Task:
    x, y, tests = _arrays(path)
    if x.ndim == 0 or y.ndim != 1 or len(x) != len(y) or len(y) == 0:
        raise TaskError(f"X has shape {list(x.shape)} and y {list(y.shape)}; y needs one value a sample")
    targets = read_target(Column("y", y), tests)
    if x.ndim == 2:
        return table.task(name, [Column(f"X[:, {i}]", x[:, i]) for i in range(x.shape[1])], targets)
    return images.task(name, x, targets)


def _arrays(path: Path) -> tuple[NDArray[Any], NDArray[Any], int]:
    """X, y, and how many of the last samples are the given test split."""
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {key: file[key] for key in file.files if key in _KNOWN}
            names = sorted(file.files)
    except (ValueError, OSError, EOFError, zipfile.BadZipFile, zlib.error) as e:
        raise TaskError(f"not a readable .npz file without pickled objects: {e}") from e
    if arrays.keys() >= {"X", "y"}:
        return arrays["X"], arrays["y"], 0
    if arrays.keys() >= _TRAIN_TEST:
        if arrays["X_train"].shape[1:] != arrays["X_test"].shape[1:]:
            raise TaskError("X_train and X_test hold samples of different shapes")
        x = np.concatenate([arrays["X_train"], arrays["X_test"]])
        y = np.concatenate([arrays["y_train"], arrays["y_test"]])
        return x, y, len(arrays["X_test"])
    raise TaskError(
        f"needs arrays X and y, or X_train, y_train, X_test and y_test; it has {', '.join(names)}"
    )
