"""The check of the study's own rate: does the loss fall at it, or blow up?"""

from __future__ import annotations

import math

from tunesmith_studies.checks.said import Known, Measured, Speaker, Verdicts, below, finite

STEPS = 100
"""Within so many steps the loss falls significantly (EECS 498 lecture 11, step 3) …"""
FEW_STEPS = 24
"""… and in so many a rate that is too high shows it, where later stages will look for a better one."""
FELL, CLEARLY_FELL = 0.9, 0.7
"""Parts of the first loss: at the first it fell, at the second nobody asks for other rates …"""
ERRORS, LITTLE = 4.0, 0.01
"""… or by so many standard errors and this relative part at least."""
BLEW_UP = 1.5
"""Times the first loss at which it has blown up."""
APART = 30.0
"""Other rates are tried this many times lower and higher."""
STILL = 1e-6
"""Median step over weight below which weights hardly move."""


def rate(m: Measured, known: Known) -> Verdicts:
    """At the study's own rate the loss falls, and does not blow up."""
    found = below(m, "check/rate/")
    rule = (
        f"the loss falls to {FELL:g} of its first or by {ERRORS:g} standard errors within {STEPS} steps; it "
        f"has blown up at {BLEW_UP:g} of it"
    )
    say = Speaker(m, "rate", rule)
    if "first" not in found:
        return
    first, last = found["first"], found["last"]
    at = f"At lr {found['lr']:.3g} the loss goes from {first:.3f} to {last:.3f} in {found['steps']:g} steps"
    lower, higher = _other(found, "low_"), _other(found, "high_")
    better_below = bool(lower) and found["low_last"] < FELL * _or_inf(last)
    if _blew_up(found) or (better_below and not _fell(found)):
        if known.rate_is_fixed:
            more = f"; at {lower}" if better_below else ""
            yield say.fail(f"{at}: the rate is too high{more}.", f"divide lr by {APART:g}, or leave it open")
        if lower and _blew_up(below(found, "low_")):
            sentence = f"{at}, and it blows up at the lowest rate of the space too: at {lower}."
            yield say.fail(sentence, "look among rates 10 to 1000 times lower")
        yield say.sound(f"{at}: the middle of the rates to try is too high, so some trials will diverge.")
    if _fell(found) or not known.rate_is_fixed:
        yield say.sound(f"{at}.")
    if found["steps"] < STEPS / 2:
        yield say.sound(f"{at}, which is too short to tell more than that it does not blow up.")
    step = "raise lr, or look at what holds the weights: decay, frozen layers, dead units"
    still = ", for weights hardly move" if found.get("update", 1.0) < STILL else ""
    more = f"; at {higher}" if higher and found["high_last"] < FELL * last else ""
    yield say.warn(f"{at}: it does not fall{still}{more}.", step)


def _blew_up(found: Measured) -> bool:
    last = found.get("last", math.nan)
    return not finite(last) or last > BLEW_UP * found["first"]


def _fell(found: Measured) -> bool:
    last, first = found["last"], found["first"]
    if not finite(last):
        return False
    by, noise = found.get("begin", first) - last, found.get("noise", math.inf)
    return last < FELL * first or (by > ERRORS * noise and by > LITTLE * first)


def _other(found: Measured, prefix: str) -> str:
    """What became of the loss at another rate, in words; empty if none was tried."""
    other = below(found, prefix)
    if "last" not in other:
        return ""
    return f"lr {other['lr']:.3g} it goes from {other['first']:.3f} to {other['last']:.3f}"


def _or_inf(value: float) -> float:
    return value if math.isfinite(value) else math.inf
