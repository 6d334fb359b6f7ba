"""What a study's last final stage chose, for pages and commands.

It is seldom the best single trial: of many seeds one is lucky, and a schedule that was tried beside the
winner may have had it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Chosen:
    """A configuration, and what fresh seeds that chose nothing say of it.

    Attributes:
        mean: of the objective over those seeds.
        seeds: how many have a value.
    """

    stage: str
    params: Mapping[str, Any]
    mean: float
    seeds: int


def chosen(stages: Iterable[tuple[str, str, Mapping[str, Any] | None]]) -> Chosen | None:
    """Of the last final stage that has an honest number.

    Args:
        stages: name, kind and result as JSON, in order.
    """
    found = None
    for name, kind, result in stages:
        honest = (result or {}).get("numbers", {}).get("honest") if kind == "final" else None
        if result and honest and isinstance(honest.get("mean"), float):
            found = Chosen(name, result["chosen"]["params"], honest["mean"], len(honest["values"]))
    return found
