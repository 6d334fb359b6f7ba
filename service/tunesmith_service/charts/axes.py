"""A hyperparameter's own scale as an axis of a chart: places from 0 to 1, and where its labels stand.

A zero beside a log range has a place of its own, as `space` gives it; values past the space, which a border
rule may have added, lie below 0 or above 1.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from pydantic import ValidationError
from tunesmith_studies.space import ZERO_SHARE, Choice, Float, Int, Space

from tunesmith_service.columns import Columns, Floats
from tunesmith_service.ui import formats

LABELS = 6


@dataclass(frozen=True, slots=True)
class Axis:
    """One hyperparameter's.

    Attributes:
        parameter: None for one that the space does not have: it is drawn on a straight scale.
        low, high: of the values at places 0 and 1.
    """

    name: str
    parameter: Float | Int | Choice | None
    low: float
    high: float

    def places(self, values: Floats) -> Floats:
        """Where values stand; NaN where there is none."""
        if self.parameter is None or isinstance(self.parameter, Choice):
            spread = self.high - self.low
            return (values - self.low) / spread if spread else np.where(np.isnan(values), np.nan, 0.5)
        return positions(self.parameter, values)

    def to_json(self) -> dict[str, Any]:
        labels = self._labels()
        return {
            "name": self.name,
            "log": bool(getattr(self.parameter, "log", False)),
            "zero": bool(getattr(self.parameter, "zero", False)),
            "whole": isinstance(self.parameter, Int),
            "low": self.low,
            "high": self.high,
            "labels": [{"at": round(at, 6), "text": text} for at, text in labels],
        }

    def _labels(self) -> list[tuple[float, str]]:
        if isinstance(self.parameter, Choice):
            values = sorted(v for v in self.parameter.values if not isinstance(v, str | bool))
            places = self.places(np.array(values, np.float64))
            return [(float(at), _short(v)) for at, v in zip(places, values, strict=True)]
        if getattr(self.parameter, "log", False):
            zero = [0.0] if getattr(self.parameter, "zero", False) else []
            values = [*zero, *_decades(self.low, self.high)]
        else:
            values = _even(self.low, self.high)
        places = self.places(np.array(values, np.float64))
        return [(float(at), _short(v)) for at, v in zip(places, values, strict=True)]


def positions(parameter: Float | Int, values: Floats) -> Floats:
    """`parameter.position` of each value at once; NaN where it has none."""
    low, high = float(parameter.low), float(parameter.high)
    zero = bool(getattr(parameter, "zero", False))
    if low == high:
        at = np.where(np.isnan(values), np.nan, 0.0)
    elif parameter.log:
        positive = np.where(values > 0, values, np.nan)
        at = np.log(positive / low) / math.log(high / low)
    else:
        at = (values - low) / (high - low)
    return np.where(values == 0, 0.0, ZERO_SHARE + (1 - ZERO_SHARE) * at) if zero else at


def of_words(name: str, labels: Sequence[Any]) -> dict[str, Any]:
    """The axis of a hyperparameter whose values are words: its choices evenly, in their order."""
    last = max(len(labels) - 1, 1)
    shown = [str(v).lower() if isinstance(v, bool) else str(v) for v in labels]
    return {
        "name": name,
        "words": shown,
        "labels": [{"at": i / last, "text": t} for i, t in enumerate(shown)],
    }


def axis(space: Mapping[str, Any], columns: Columns, name: str) -> Axis:
    """Of a hyperparameter that is a number. Raises KeyError for one that no trial has."""
    values = columns.numbers[name]
    parameter = _space(space).root.get(name)
    if isinstance(parameter, Float | Int):
        return Axis(name, parameter, float(parameter.low), float(parameter.high))
    known = values[~np.isnan(values)]
    low, high = (float(known.min()), float(known.max())) if len(known) else (0.0, 1.0)
    return Axis(name, parameter, low, high)


def varied_numbers(space: Mapping[str, Any], columns: Columns) -> list[str]:
    """Hyperparameters that are numbers and take more than one value, the space's first, rate and decay
    before all."""
    names = [n for n in (*space, *columns.numbers) if n in columns.numbers]
    varied = [n for n in dict.fromkeys(names) if len(_two(columns.numbers[n])) > 1]
    first = [n for n in ("lr", "weight_decay") if n in varied]
    return first + [n for n in varied if n not in first]


def _two(values: Floats) -> Floats:
    """Up to two different values: enough to know whether they vary."""
    known = values[~np.isnan(values)]
    return known[:1] if not len(known) or (known == known[0]).all() else np.unique(known)[:2]


def _space(written: Mapping[str, Any]) -> Space:
    try:
        return Space.model_validate(written)
    except ValidationError:  # of another version: charts go by the values
        return Space.model_construct(root={})


def _short(value: float) -> str:
    return formats.number(float(f"{value:.4g}"), pad=False)


def _decades(low: float, high: float) -> list[float]:
    """Powers of ten within the range, its ends where there are fewer than two."""
    first, last = math.ceil(math.log10(low) - 1e-9), math.floor(math.log10(high) + 1e-9)
    step = max(1, math.ceil((last - first + 1) / LABELS))
    found = [10.0**k for k in range(first, last + 1, step)]
    return found if len(found) > 1 else [low, high]


def _even(low: float, high: float) -> list[float]:
    """Round numbers evenly over the range, its ends among them where they are round."""
    if high <= low:
        return [low]
    rough = (high - low) / (LABELS - 1)
    unit = 10.0 ** math.floor(math.log10(rough))
    step = next(m * unit for m in (1, 2, 2.5, 5, 10) if m * unit >= rough)
    first = math.ceil(low / step - 1e-9)
    count = int((high - first * step) / step + 1e-9) + 1
    return [float(f"{(first + k) * step:.12g}") for k in range(count)] or [low, high]
