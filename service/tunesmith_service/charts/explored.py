"""What parallel axes and slices share: hyperparameters in order of importance, as places from 0 to 1."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tunesmith_service.charts import importance
from tunesmith_service.charts.asked import Asked
from tunesmith_service.charts.axes import axis, of_words, varied_numbers
from tunesmith_service.columns import Floats

MOST_PARAMETERS = 16


@dataclass(frozen=True, slots=True)
class Parameter:
    """A hyperparameter that varies.

    Attributes:
        axis: for the chart; JSON.
        place: of every trial, NaN for one that has none.
    """

    name: str
    axis: dict[str, Any]
    place: Floats


def parameters(asked: Asked) -> list[Parameter]:
    """Those that vary, what matters most first; the rest in the study's order."""
    columns, space = asked.columns, asked.study.spec["space"]
    found: dict[str, Parameter] = {}
    for name in varied_numbers(space, columns):
        own = axis(space, columns, name)
        found[name] = Parameter(name, own.to_json(), own.places(columns.numbers[name]))
    for name, words in columns.words.items():
        if len(np.unique(words.codes[words.codes >= 0])) > 1:
            order = _sorted(words.labels, (space.get(name) or {}).get("values"))
            last = max(len(order) - 1, 1)
            at = np.array([order.index(label) / last for label in words.labels])
            place = np.where(words.codes >= 0, at[words.codes], np.nan)
            found[name] = Parameter(name, of_words(name, order), place)
    shares = importance.view(asked)["names"]
    ranked = [n for n in shares if n in found] + [n for n in found if n not in shares]
    return [found[n] for n in ranked[:MOST_PARAMETERS]]


def _sorted(labels: tuple[Any, ...], declared: Any) -> list[Any]:
    """Choices as the study writes them; what else there is comes after, numbers by their size."""
    known = [v for v in declared or () if v in labels]
    rest = [v for v in labels if v not in known]
    numbers = sorted((v for v in rest if not isinstance(v, str | bool)), key=float)
    return known + numbers + sorted((v for v in rest if isinstance(v, str | bool)), key=str)


def drawn(asked: Asked, most: int) -> NDArray[np.int64]:
    """Trials to draw, at most so many: those with a value or that diverged; of too many the best of what the
    filter picks, then every so many-th of the others."""
    columns = asked.columns
    usable = np.flatnonzero(columns.trains & (~np.isnan(columns.value) | columns.diverged))
    if len(usable) <= most:
        return usable
    signed = asked.sign * columns.value[usable]
    signed = np.where(np.isnan(signed), np.inf, signed)
    ranked = usable[np.lexsort((signed, ~asked.keep[usable]))]
    best, rest = ranked[: most // 2], ranked[most // 2 :]
    return np.sort(np.concatenate((best, rest[:: -(-len(rest) // (most - most // 2))])))
