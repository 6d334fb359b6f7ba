"""What a few seeds or folds say about a configuration: means, intervals, paired comparisons.

Needs scipy for Student's t, which is imported where it is used; workers need none of this.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

LEVEL = 0.95
CLEAR = 2.0
"""Paired differences this many standard errors from zero are told apart; nearer ones are a tie."""

FEWEST_PAIRS = 3
"""With fewer nothing is told apart."""


@dataclass(frozen=True, slots=True)
class Spread:
    """Mean, standard deviation (of n - 1; NaN below two values) and number of some values."""

    mean: float
    sd: float
    n: int

    @property
    def error(self) -> float:
        """The mean's standard error: sd / √n."""
        return self.sd / math.sqrt(self.n)


def spread(values: Sequence[float]) -> Spread:
    """Raises ValueError on no values and on one that is not finite."""
    if not values or not all(math.isfinite(v) for v in values):
        raise ValueError(f"a mean needs at least one value and finite ones only, got {list(values)}")
    n, mean = len(values), math.fsum(values) / len(values)
    sd = math.sqrt(math.fsum((v - mean) ** 2 for v in values) / (n - 1)) if n > 1 else math.nan
    return Spread(mean, sd, n)


def interval(
    values: Sequence[float], *, ahead: int | None = None, level: float = LEVEL
) -> tuple[float, float]:
    """Where a mean lies with confidence `level`, by Student's t on n - 1 degrees of freedom.

    Without `ahead` that is the mean of infinitely many further values: mean ± t·s/√n. With it, the
    mean of `ahead` further ones, which scatters as well: mean ± t·s·√(1/n + 1/ahead). The latter is
    what somebody sees who trains `ahead` more seeds, so that is what is printed where such a check
    is promised; 10 more of 5 seeds make it 22 % wider.

    Raises: ValueError below two values, for one says nothing about its spread.
    Source: the usual prediction interval of a normal sample, Hahn & Meeker 1991, Statistical
        Intervals, §4.7.
    """
    found = spread(values)
    if found.n < 2:
        raise ValueError(f"an interval needs at least two values, got {found.n}")
    from scipy.stats import t  # noqa: PLC0415 - slow to import, and planning alone needs it

    share = 1 / found.n + (1 / ahead if ahead else 0.0)
    half = float(t.ppf((1 + level) / 2, found.n - 1)) * found.sd * math.sqrt(share)
    return found.mean - half, found.mean + half


@dataclass(frozen=True, slots=True)
class Paired:
    """Differences of two configurations over the seeds or folds that both have run.

    Attributes:
        difference: mean of first less second.
        sd: of the differences; NaN below two of them.
        n: how many there are.
    """

    difference: float
    sd: float
    n: int

    @property
    def errors(self) -> float:
        """How many standard errors the mean difference is from zero; 0 where too few pairs say so."""
        if self.n < FEWEST_PAIRS:
            return 0.0
        if self.sd == 0:
            return math.inf if self.difference else 0.0
        return abs(self.difference) / (self.sd / math.sqrt(self.n))

    @property
    def is_tie(self) -> bool:
        """Whether the pairs do not tell the two apart. Source: the recipe's §1.6, |Δ| / (sd/√n) ≤ 2, or
        fewer than three pairs."""
        return self.errors <= CLEAR


def paired(one: Mapping[int, float], other: Mapping[int, float]) -> Paired:
    """Compare values by seed or fold. Raises ValueError if they have none in common."""
    common = sorted(one.keys() & other.keys())
    found = spread([one[i] - other[i] for i in common])
    return Paired(found.mean, found.sd, found.n)
