"""How a check reads what was measured, and how it says what it found."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TypeAlias

from tunesmith_studies.findings import Finding, Level

Measured: TypeAlias = Mapping[str, float]
Verdicts: TypeAlias = Iterator[Finding]
"""What a check has to say, the most telling first: the first counts. Nothing, where it was not measured."""


@dataclass(frozen=True, slots=True)
class Known:
    """What the study says about the point that was measured.

    Attributes:
        rate_is_fixed: its learning rate does not vary, so nothing later will look for another.
        freezes: it holds layers still on purpose.
        largest_batch: the largest batch that its stages may ask for, accumulation left out.
    """

    rate_is_fixed: bool = True
    freezes: bool = False
    largest_batch: int | None = None


@dataclass(frozen=True, slots=True)
class Speaker:
    """Findings of one kind, each with all that was measured for it under `prefix`."""

    measured: Measured
    kind: str
    rule: str
    prefix: str = ""

    def fail(self, sentence: str, next_step: str) -> Finding:
        return self._said("fail", sentence, next_step)

    def warn(self, sentence: str, next_step: str) -> Finding:
        return self._said("warn", sentence, next_step)

    def sound(self, sentence: str) -> Finding:
        return self._said("pass", sentence, "")

    def _said(self, level: Level, sentence: str, next_step: str) -> Finding:
        found = below(self.measured, self.prefix or f"check/{self.kind}/")
        numbers = {name: _as_json(value) for name, value in found.items()}
        return Finding(self.kind, level, sentence, self.rule, as_sentence(next_step), numbers)


def as_sentence(words: str) -> str:
    """
    >>> as_sentence("look at the labels")
    'Look at the labels.'
    """
    return f"{words[0].upper()}{words[1:].rstrip('.')}." if words else ""


def below(measured: Measured, prefix: str) -> dict[str, float]:
    """The numbers whose names begin with `prefix`, by what follows it."""
    return {name.removeprefix(prefix): v for name, v in measured.items() if name.startswith(prefix)}


def names(some: Mapping[str, float], most: int = 4) -> str:
    """`a, b, c and 3 more` for people."""
    listed = list(some)
    more = f" and {len(listed) - most} more" if len(listed) > most else ""
    return ", ".join(listed[:most]) + more


def finite(*values: float) -> bool:
    return all(math.isfinite(v) for v in values)


def share(value: float) -> str:
    """12 %, 0.4 %."""
    return f"{100 * value:.{0 if value >= 0.1 or value == 0 else 1}f} %"


def plural(count: float, one: str, many: str = "") -> str:
    return f"{count:g} {one if count == 1 else many or one + 's'}"


def _as_json(value: float) -> float | str:
    if math.isnan(value):
        return "NaN"
    if math.isinf(value):
        return "Infinity" if value > 0 else "-Infinity"
    return value
