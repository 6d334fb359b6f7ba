"""Curves for a screen: fewer points without losing a spike, and an axis that what runs away does not set."""

from __future__ import annotations

from collections.abc import Sequence

MOST_POINTS = 2000
"""Points of one curve that a screen can show."""


def decimate(points: Sequence[tuple[float, float]], most: int = MOST_POINTS) -> list[tuple[float, float]]:
    """At most `most` of the points: the lowest and the highest of each bucket, first and last kept.

    Unlike a mean, this loses no spike. `most` is at least 4.
    """
    if len(points) <= most:
        return list(points)
    inner = points[1:-1]
    buckets = (most - 2) // 2
    kept = [points[0]]
    for b in range(buckets):
        bucket = inner[b * len(inner) // buckets : (b + 1) * len(inner) // buckets]
        ends = {min(bucket, key=lambda p: p[1]), max(bucket, key=lambda p: p[1])}
        kept.extend(sorted(ends))
    return [*kept, points[-1]]


def robust_range(values: Sequence[float]) -> tuple[float, float] | None:
    """Bounds that show the bulk: the extremes, or 1.5 times the middle 90 % beyond it if they run away."""
    if not values:
        return None
    ordered = sorted(values)
    low, high = (ordered[min(int(q * len(ordered)), len(ordered) - 1)] for q in (0.05, 0.95))
    reach = 1.5 * (high - low)
    bottom, top = max(ordered[0], low - reach), min(ordered[-1], high + reach)
    if bottom == top:
        pad = abs(bottom) * 0.05 or 1.0
        return bottom - pad, top + pad
    return bottom, top
