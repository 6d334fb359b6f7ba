"""How much each hyperparameter matters, by PED-ANOVA or fANOVA.

    {"metric": "val/loss", "direction": "minimize", "evaluator": "PED-ANOVA", "by": "ped_anova",
     "states": ["complete"], "n": 240, "of": 240, "names": ["lr", "dropout"], "shares": [0.8, 0.2],
     "left_out": ["beta1"], "few": false, "shown": 2}

`n` trials were looked at of the `of` that have a value; `few` where they are too few to rely on it.
Hyperparameters that some of the trials do not have are `left_out`.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tunesmith_studies.importance import NAMES, Evaluator, PackageMissingError, importances

from tunesmith_service.charts.asked import Asked, described
from tunesmith_service.charts.axes import axis
from tunesmith_service.columns import Columns
from tunesmith_service.errors import Unprocessable

MOST: Mapping[Evaluator, int] = {"ped_anova": 2_000, "fanova": 200}
"""Trials that are looked at: the shares move little with more, and it would take seconds. Of fANOVA the time
goes with their square."""
MOST_KNOWN = 32
FEW = 30
"""Below this the recipe trusts no importance (recipe §2)."""


def view(asked: Asked) -> dict[str, Any]:
    columns = asked.columns
    every = np.flatnonzero(asked.keep & columns.trains & ~np.isnan(columns.value))
    # of very many, one more or less changes nothing: what was found holds until there are a percent more
    most = MOST[asked.query.evaluator]
    usable = every[: len(every) - len(every) % max(1, len(every) // 100)] if len(every) > most else every
    looked = usable if len(usable) <= most else np.random.default_rng(0).choice(usable, most, replace=False)
    looked = np.sort(looked)
    found = _shares(asked, looked)
    varied = [*asked.study.spec["space"]]
    return {
        **described(asked),
        "evaluator": NAMES[asked.query.evaluator],
        "by": asked.query.evaluator,
        "states": ["complete"],
        "n": len(looked),
        "of": len(every),
        "names": list(found),
        "shares": [round(v, 4) for v in found.values()],
        "left_out": [n for n in varied if n not in found and len(looked)],
        "few": len(looked) < FEW,
        "shown": len(found),
    }


_KNOWN: OrderedDict[tuple[int, str, Evaluator, bytes], dict[str, float]] = OrderedDict()
"""By study, direction, evaluator and the trials looked at: finished trials never change."""
_asking = threading.Lock()


def _shares(asked: Asked, trials: NDArray[np.int64]) -> dict[str, float]:
    """Raises: Unprocessable where what the evaluator needs is missing."""
    key = (asked.study.id, asked.study.direction, asked.query.evaluator, trials.tobytes())
    with _asking:  # two charts of a page ask for the same
        if key not in _KNOWN:
            numbers, words = of_space(asked.columns, asked.study.spec["space"])
            here = {name: column[trials] for name, column in numbers.items()}
            chosen = {name: codes[trials] for name, codes in words.items()}
            try:
                _KNOWN[key] = importances(
                    {name: np.clip(c, 0, 1).tolist() for name, c in here.items() if not np.isnan(c).any()},
                    {name: codes.tolist() for name, codes in chosen.items() if (codes >= 0).all()},
                    asked.columns.value[trials].tolist(),
                    minimize=asked.sign > 0,
                    evaluator=asked.query.evaluator,
                )
            except PackageMissingError as e:
                raise Unprocessable(f"{e}, on the server") from e
            while len(_KNOWN) > MOST_KNOWN:
                _KNOWN.popitem(last=False)
        return _KNOWN[key]


def of_space(columns: Columns, space: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """The space's hyperparameters: numbers as places on their own scales, words as the numbers of choices."""
    numbers = {n: axis(space, columns, n).places(columns.numbers[n]) for n in space if n in columns.numbers}
    return numbers, {n: columns.words[n].codes for n in space if n in columns.words}
