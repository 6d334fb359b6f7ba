"""Checks of how training, validation and test go together: rows in two of them, and drift between them."""

from __future__ import annotations

import math

from tunesmith_studies.checks.said import Known, Measured, Speaker, Verdicts, below, share

COPIED = 0.005
"""Share of rows in two splits that is no leak yet, beside what doubles in training lead to expect."""
NEARLY = 0.03
"""The same of rows that are nearly equal."""
DOUBLES = 0.2
"""Share of validation rows that also stand in training from which on doubles are worth a warning."""
TELLTALE, GIVEN_AWAY = 0.98, 0.999
"""η² of a column from which on it is suspicious, and from which on it is the label."""

BY_CHANCE = 1e-6
"""Probability of a difference by chance, over all columns, below which validation differs …"""
DISTANCE = 0.1
"""… if it is also at least so large (Kolmogorov–Smirnov)."""
OWN_NEIGHBOURS = 5.0
"""Standard errors by which neighbours come from the own split more often than by chance."""

_NAMES = {"val": "validation", "train": "training", "test": "test"}


def leak(m: Measured, known: Known) -> Verdicts:
    """No row stands in two splits more often than doubles in training explain; no column is the label."""
    found = below(m, "check/leak/")
    rule = f"rows in two splits at most {share(COPIED)} and 5 sd above the share of doubles within training"
    say, apart = (
        Speaker(m, "leak", rule),
        "remove shared rows before cutting; keep what belongs together in one split",
    )
    if not found:
        return
    twins = found.get("train_twins", 0.0)
    for pair in ("val_in_train", "test_in_train", "test_in_val"):
        one, _, other = pair.partition("_in_")
        if exceeds(found.get(pair, 0.0), twins, found, one, COPIED):
            sentence = (
                f"{share(found[pair])} of the {_NAMES[one]} rows stand in {_NAMES[other]} too, where doubles "
                f"within training ({share(twins)}) do not explain it."
            )
            yield say.fail(sentence, apart)
    near, alike = found.get("near", 0.0), found.get("near_twins", 0.0)
    if exceeds(near, alike, {**found, "val_rows": min(found.get("val_rows", 1), 500)}, "val", NEARLY):
        part = f"{share(near)} of the validation rows (of training's {share(alike)})"
        sentence = f"{part} have an all but equal row in training."
        yield say.fail(sentence, apart)
    column = found.get("column", 0.0)
    if column >= TELLTALE:
        sentence = (
            f"A column all but gives the label away: the label explains {100 * column:.1f} % of its variance."
        )
        step = "drop that column, unless it is known when predictions are made"
        yield say.fail(sentence, step) if column >= GIVEN_AWAY else say.warn(sentence, step)
    shared = found.get("val_in_train", 0.0)
    seen = f"{share(shared)} of validation rows stand in training, where {share(twins)} are doubles"
    if shared > DOUBLES:
        yield say.warn(f"{seen}.", "drop doubles before cutting the splits")
    if "val_in_train" not in found:
        yield say.sound("No column gives the label away; validation's rows were not seen by themselves.")
    yield say.sound(f"{seen}." if shared else "No row stands in two splits.")


def exceeds(part: float, expected: float, found: Measured, split: str, margin: float) -> bool:
    """Whether a share of a split's rows is above what is expected, by a margin and five standard errors."""
    least = max(expected, 1 / max(found.get("train_rows", math.inf), 1))
    error = math.sqrt(least * max(1 - least, 0.0) / max(found.get(f"{split}_rows", 1), 1))
    return part > least + margin + 5 * error


def shift(m: Measured, known: Known) -> Verdicts:
    """Validation could have been drawn from where training was: columns, neighbours, labels."""
    found = below(m, "check/shift/")
    rule = (
        f"p above {BY_CHANCE:g} over all columns or distance below {DISTANCE:g}; neighbours within "
        f"{OWN_NEIGHBOURS:g} standard errors"
    )
    say = Speaker(m, "shift", rule)
    if not found:
        return
    seen = [sentence for sentence in (_columns(found), _neighbours(found), _classes(found)) if sentence]
    if seen:
        step = "cut both from the same data, shuffled, and prepare them the same way"
        yield say.fail("Validation is drawn from elsewhere than training: " + "; ".join(seen) + ".", step)
    distance, columns = found.get("distance", 0.0), found.get("columns", 0)
    yield say.sound(f"Validation looks like training: {columns:g} columns differ by at most {distance:.2f}.")


def _columns(found: Measured) -> str:
    """Source: Kolmogorov–Smirnov's asymptotic p = 2 exp(-2 D² nm / (n + m)), times the columns."""
    n, k = found.get("rows_train", 0.0), found.get("rows_val", 0.0)
    distance = found.get("distance", 0.0)
    p = min(1.0, 2 * found.get("columns", 0.0) * math.exp(-2 * distance**2 * n * k / max(n + k, 1.0)))
    if distance < DISTANCE or p > BY_CHANCE:
        return ""
    return f"a column differs by {distance:.2f} (Kolmogorov–Smirnov, p = {max(p, 1e-99):.0e})"


def _neighbours(found: Measured) -> str:
    """Source: Schilling 1986, doi:10.1080/01621459.1986.10478337; neighbours that name each other double
    the variance at most."""
    pooled, own = found.get("pooled", 0.0), found.get("neighbours", 0.0)
    if pooled < 4:
        return ""
    chance = (pooled / 2 - 1) / (pooled - 1)
    errors = (own - chance) / math.sqrt(2 * chance * (1 - chance) / pooled)
    return (
        f"{share(own)} of nearest rows are of the own split, {share(chance)} by chance"
        if errors > OWN_NEIGHBOURS
        else ""
    )


def _classes(found: Measured) -> str:
    freedom = found.get("classes", 0.0) - 1
    if freedom < 1 or chi_errors(found["chi2"], freedom) <= normal_errors(BY_CHANCE):
        return ""
    return f"class shares differ (χ² {found['chi2']:.0f}, {freedom:g} degrees of freedom)"


def chi_errors(chi2: float, freedom: float) -> float:
    """χ² as standard errors of a normal. Source: Wilson & Hilferty 1931, doi:10.1073/pnas.17.12.684."""
    spread = 2 / (9 * freedom)
    return float(((chi2 / freedom) ** (1 / 3) - (1 - spread)) / math.sqrt(spread))


def normal_errors(p: float) -> float:
    """Standard errors that a normal exceeds with probability `p` < 0.5, to 0.003.

    Source: Hastings 1955, in Abramowitz & Stegun 26.2.22.
    """
    t = math.sqrt(-2 * math.log(p))
    return t - (2.30753 + 0.27061 * t) / (1 + 0.99229 * t + 0.04481 * t * t)
