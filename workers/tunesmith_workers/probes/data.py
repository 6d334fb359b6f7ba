"""Numbers about the data: labels, columns, rows that two splits share, and whether splits look alike.

Functions of plain tensors on the CPU, of a bounded number of rows; none of them trains. Names as in
`tunesmith_studies.checks`.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

ROWS, QUERIES, COLUMNS = 5000, 500, 1024
"""At most so many rows, rows whose neighbours are looked for, and columns are compared."""
_VOTES = 8  # rows of a class without which nothing is said of it
NEIGHBOURS = "check/generalise/neighbours"
NEAR = 0.1
"""A row is near another that is so many times nearer than the median nearest row."""


def labels(train: Tensor, val: Tensor, classes: int) -> dict[str, float]:
    """`train`, `val`: shape (n,), one label a sample."""
    both = torch.cat([train, val]).to(torch.float64)
    outside = (both < 0) | (both >= classes) | (both != both.round())
    present, in_val = set(train.tolist()), set(val.tolist())
    return {
        "check/labels/classes": float(classes),
        "check/labels/lowest": both.min().item(),
        "check/labels/highest": both.max().item(),
        "check/labels/outside": float(outside.sum()),
        "check/labels/present": float(len(present)),
        "check/labels/val_only": float(len(in_val - present)),
    }


def balance(train: Tensor) -> dict[str, float]:
    counts = torch.unique(train, return_counts=True)[1].to(torch.float64)
    shares = counts / counts.sum()
    return {
        "check/balance/entropy": -(shares * shares.log()).sum().item(),
        "check/balance/largest": shares.max().item(),
        "check/balance/smallest": shares.min().item(),
    }


def order(seen: Tensor) -> dict[str, float]:
    """`seen`: shape (n,), labels in the order in which training sees them."""
    shares = torch.unique(seen, return_counts=True)[1].to(torch.float64) / len(seen)
    same = (seen[1:] == seen[:-1]).to(torch.float64).mean().item() if len(seen) > 1 else 0.0
    return {"check/order/same": same, "check/order/chance": (shares**2).sum().item()}


def inputs(x: Tensor) -> dict[str, float]:
    """`x`: shape (n, …), numbers as they reach the model. Of whole numbers only their count of NaN."""
    if not x.is_floating_point():
        return {"check/inputs/not_finite": 0.0}
    bad = int((~torch.isfinite(x)).sum())
    if bad:
        return {"check/inputs/not_finite": float(bad)}
    flat = _flat(x).to(torch.float64)
    deviations = flat.std(0, unbiased=False)
    varying = deviations[deviations > 0]
    return {
        "check/inputs/not_finite": 0.0,
        "check/inputs/mean": flat.mean().item(),
        "check/inputs/deviation": flat.std(unbiased=False).item(),
        "check/inputs/columns": float(flat.shape[1]),
        "check/inputs/uneven": (varying.max() / varying.median()).item() if len(varying) else 1.0,
    }


def leak(splits: Mapping[str, Tensor], y: Tensor | None = None) -> dict[str, float]:
    """Rows that stand in two splits, or twice in training, to the bit.

    Args:
        splits: inputs by name of the split (train, val, test), shapes (n, …).
        y: shape (n,), labels of training, where they are classes.
    """
    hashed = {name: _hashes(x) for name, x in splits.items()}
    sets = {name: set(found) for name, found in hashed.items()}
    counts = Counter(hashed["train"])
    found = {f"check/leak/{name}_rows": float(len(rows)) for name, rows in hashed.items()}
    found["check/leak/train_twins"] = _share(counts[row] > 1 for row in hashed["train"])
    for one, other in (("val", "train"), ("test", "train"), ("test", "val")):
        if one in sets and other in sets:
            found[f"check/leak/{one}_in_{other}"] = _share(row in sets[other] for row in hashed[one])
    if y is not None and splits["train"].is_floating_point():
        found["check/leak/column"] = explained(splits["train"], y)
    return found | _near(splits)


def _near(splits: Mapping[str, Tensor]) -> dict[str, float]:
    """Shares of validation and of training rows with another training row that is near, but not equal."""
    train, val = splits["train"], splits.get("val")
    if val is None or not train.is_floating_point() or len(train) < 2:
        return {}
    rows = _flat(_some(train, ROWS))
    queries = min(QUERIES, len(rows) // 2)
    rows = _some(rows, len(rows) - 1)  # in a random order
    own = _nearest(rows[:queries], rows[queries:])
    other = _nearest(_flat(_some(val, QUERIES)), rows)
    usual = NEAR * own.median().item()
    return {
        "check/leak/near": _share(0 < d < usual for d in other.tolist()),
        "check/leak/near_twins": _share(0 < d < usual for d in own.tolist()),
    }


def explained(x: Tensor, y: Tensor) -> float:
    """η²: the largest share of a column's variance that lies between the classes. In [0, 1]."""
    flat, y = _flat(x[:ROWS]).to(torch.float64), y[:ROWS]
    total = flat.var(0, unbiased=False)
    between = torch.zeros_like(total)
    for label in torch.unique(y):
        members = flat[y == label]
        between += len(members) / len(flat) * (members.mean(0) - flat.mean(0)) ** 2
    varies = total > 1e-12 * max(total.max().item(), 1e-30)
    return (between[varies] / total[varies]).max().item() if varies.any() else 0.0


def shift(train: Tensor, val: Tensor) -> dict[str, float]:
    """How validation inputs differ from training's: column by column, and by who is next to whom."""
    if not train.is_floating_point():
        return {}
    one, other = _flat(_some(train, 2000)), _flat(_some(val, 2000))
    found = {
        "check/shift/rows_train": float(len(one)),
        "check/shift/rows_val": float(len(other)),
        "check/shift/columns": float(one.shape[1]),
        "check/shift/distance": max(_distances(one.numpy(), other.numpy())),
    }
    half = min(QUERIES, len(one), len(other))
    if half < 20:  # too few to have neighbours
        return found
    pooled = torch.cat([_some(one, half), _some(other, half)])
    nearest = _between(pooled, pooled).fill_diagonal_(math.inf).argmin(1)
    own = (nearest < half) == (torch.arange(2 * half) < half)
    return found | {
        "check/shift/neighbours": own.to(torch.float64).mean().item(),
        "check/shift/pooled": float(2 * half),
    }


def label_shift(train: Tensor, val: Tensor) -> dict[str, float]:
    """χ² of the two splits' class counts; classes rarer than 5 expected samples are left out."""
    classes = torch.unique(torch.cat([train, val]))
    counts = torch.stack([(split == label).sum() for label in classes for split in (train, val)])
    table = counts.reshape(-1, 2).to(torch.float64)
    expected = table.sum(1, keepdim=True) * table.sum(0, keepdim=True) / table.sum()
    common = (expected >= 5).all(1)
    chi2 = ((table - expected) ** 2 / expected)[common].sum().item()
    return {"check/shift/chi2": chi2, "check/shift/classes": float(common.sum())}


def neighbours(train: tuple[Tensor, Tensor], val: tuple[Tensor, Tensor]) -> dict[str, float]:
    """What the label of the nearest training row says about validation's labels.

    Args:
        train, val: inputs (n, …) and class labels (n,).
    """
    if not train[0].is_floating_point():
        return {}
    x, y = _flat(_some(train[0], ROWS)), _some(train[1], ROWS)
    queries, truth = _flat(_some(val[0], QUERIES)), _some(val[1], QUERIES)
    said = y[_between(queries, x).argmin(1)]
    labels = torch.unique(torch.cat([said, truth]))
    chance = sum(((said == c).sum() * (truth == c).sum()).item() for c in labels) / len(said) ** 2
    hits = (said == truth).to(torch.float64).mean().item()
    spread = math.sqrt(max(chance * (1 - chance), 1e-12) / len(said))
    return {
        NEIGHBOURS: (hits - chance) / spread,
        "check/generalise/exchanged": float(_exchanged(said, truth)),
    }


def _exchanged(said: Tensor, truth: Tensor) -> int:
    """Classes whose rows have mostly another class for a neighbour, and that one's rows theirs, in a circle.

    A class that hides in a commoner one is in no circle.
    """
    mostly = {}
    for label in torch.unique(truth).tolist():
        votes = said[truth == label]
        names, counts = torch.unique(votes, return_counts=True)
        if len(votes) >= _VOTES and counts.max() > len(votes) / 2:
            mostly[label] = int(names[counts.argmax()])
    return sum(label != other and _comes_back(label, mostly) for label, other in mostly.items())


def _comes_back(label: int, mostly: Mapping[int, int]) -> bool:
    at: int | None = label
    for _ in mostly:
        at = mostly.get(at) if at is not None else None
        if at == label:
            return True
    return False


def _distances(one: NDArray[np.float32], other: NDArray[np.float32]) -> list[float]:
    """Kolmogorov–Smirnov distance of each column of two tables, shapes (n, d) and (m, d)."""
    found = []
    for a, b in zip(np.sort(one, 0).T, np.sort(other, 0).T, strict=True):
        everything = np.concatenate([a, b])
        below_a = np.searchsorted(a, everything, side="right") / len(a)
        below_b = np.searchsorted(b, everything, side="right") / len(b)
        found.append(float(np.abs(below_a - below_b).max()))
    return found


def _nearest(queries: Tensor, rows: Tensor) -> Tensor:
    return _between(queries, rows).min(1).values


def _between(queries: Tensor, rows: Tensor) -> Tensor:
    """Distances; in float64, whose products lose nothing that matters and are quick."""
    return torch.cdist(queries.to(torch.float64), rows.to(torch.float64))


def _some(rows: Tensor, most: int) -> Tensor:
    """At most `most` of the rows, the same ones each time, drawn from all over."""
    if len(rows) <= most:
        return rows
    return rows[torch.randperm(len(rows), generator=torch.Generator().manual_seed(0))[:most]]


def _flat(x: Tensor) -> Tensor:
    """Shape (n, columns), of at most COLUMNS columns from all over a sample."""
    flat = x.reshape(len(x), -1).to(torch.float32)
    if flat.shape[1] <= COLUMNS:
        return flat
    chosen = torch.randperm(flat.shape[1], generator=torch.Generator().manual_seed(0))[:COLUMNS]
    return flat[:, chosen]


def _hashes(x: Tensor) -> list[int]:
    rows = x.contiguous().reshape(len(x), -1).view(torch.uint8).numpy()
    return [hash(row.tobytes()) for row in rows]


def _share(found: object) -> float:
    answers = list(found)  # type: ignore[call-overload]
    return sum(answers) / len(answers) if answers else 0.0
