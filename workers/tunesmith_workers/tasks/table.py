"""Tables: numeric columns standardised by the training split, texts as one column a value; an MLP."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from pyarrow import csv, parquet

from tunesmith_workers.tasks import models
from tunesmith_workers.tasks.registry import Task, TaskError
from tunesmith_workers.tasks.targets import Column, Targets

_MAX_TEXTS = 100


def read(path: Path) -> list[Column]:
    """The columns of a CSV (first line: names) or Parquet file."""
    try:
        if path.suffix == ".csv":
            options = csv.ConvertOptions(strings_can_be_null=True)
            found = csv.read_csv(path, convert_options=options)
        elif path.suffix == ".parquet":
            found = parquet.read_table(path)
        else:
            raise TaskError(
                f"a data file ends in .npz, .csv or .parquet, not in {path.suffix or 'nothing'!r}"
            )
        names = found.column_names
    except (pa.ArrowException, OSError, UnicodeDecodeError) as e:  # names that are not UTF-8
        raise TaskError(f"not a readable {path.suffix[1:]} file: {e}") from e
    if found.num_columns < 2:
        raise TaskError(f"needs at least two columns, the last or one named target; it has {names}")
    if found.num_rows == 0:
        raise TaskError("has no rows")
    return [_column(n, c) for n, c in zip(names, found.columns, strict=True)]


def _column(name: str, values: pa.ChunkedArray) -> Column:
    kind = values.type
    if pa.types.is_dictionary(kind):
        values, kind = values.cast(kind.value_type), kind.value_type
    if values.null_count:
        return Column(name, np.empty(len(values)), missing=values.null_count)
    number = pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind)
    text = pa.types.is_string(kind) or pa.types.is_large_string(kind)
    if not number and not text:
        raise TaskError(f"column {name!r} is of type {kind}; turn it into numbers or texts, or drop it")
    return Column(name, np.asarray(values.to_numpy() if number else values.to_pylist()))


def features(columns: Sequence[Column], train: NDArray[np.int64]) -> NDArray[np.float32]:
    """Shape (n, d): each numeric column less its mean over its deviation, both of the training rows
    (a constant one becomes 0); each text column as 0 and 1 for every value seen in the training rows."""
    found: list[NDArray[Any]] = []
    for column in columns:
        column.refuse_missing()
        kind = column.values.dtype.kind
        if kind in "US":
            found += _one_hot(column, train)
        elif kind in "biuf":
            values = column.values.astype(np.float64)
            deviation = float(values[train].std())
            found.append((values - values[train].mean()) / (deviation if deviation > 0 else 1.0))
        else:
            raise TaskError(
                f"column {column.name!r} holds {column.values.dtype}; only numbers and texts are read"
            )
    return np.stack(found, axis=1).astype(np.float32)


def _one_hot(column: Column, train: NDArray[np.int64]) -> list[NDArray[np.bool_]]:
    texts = np.unique(column.values[train])
    if len(texts) > _MAX_TEXTS:
        raise TaskError(
            f"column {column.name!r} has {len(texts)} different texts in {len(column.values)} rows, more "
            f"than {_MAX_TEXTS}; drop it if it names the rows, or turn it into numbers"
        )
    return [column.values == text for text in texts]


def task(name: str, columns: Sequence[Column], targets: Targets) -> Task:
    """`columns` are all but the target."""
    x = torch.from_numpy(features(columns, targets.parts["train"]))
    shape = models.Shape(sample=(x.shape[1],), classes=targets.classes)
    return Task(
        splits=targets.splits(x),
        classes=targets.classes,
        build=lambda params: models.build(name, shape, params),
    )
