"""What a check or a curve showed, in a plain sentence with its numbers, its rule and a next step.

Needs no Optuna. Preflight gives one for each check, passed ones too; diagnosis gives those that say
something.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

Level = Literal["fail", "warn", "info", "pass"]

GRAVEST_FIRST: tuple[Level, ...] = ("fail", "warn", "info", "pass")


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was found.

    Attributes:
        kind: a stable name such as `overfit` or `initial_loss`, for programs.
        level: fail: do not go on; warn: look at it; info: worth knowing; pass: checked, and sound.
        sentence: what was seen, with the numbers, for people.
        rule: the threshold it was judged by, with its source where it has one.
        next_step: what to do; empty where nothing is to be done.
        numbers: what the sentence was written from; JSON, numbers that are not finite as on the wire.
        trials: numbers of the trials it was seen in.
        proposes: a stage as JSON that would go on from there, for a person to look at and add; or None.
    """

    kind: str
    level: Level
    sentence: str
    rule: str = ""
    next_step: str = ""
    numbers: Mapping[str, Any] = field(default_factory=dict)
    trials: tuple[int, ...] = ()
    proposes: Mapping[str, Any] | None = None

    def to_json(self) -> dict[str, Any]:
        return {
            "kind": self.kind,
            "level": self.level,
            "sentence": self.sentence,
            "rule": self.rule,
            "next_step": self.next_step,
            "numbers": dict(self.numbers),
            "trials": list(self.trials),
            "proposes": None if self.proposes is None else dict(self.proposes),
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Finding:
        return cls(**{**data, "trials": tuple(data["trials"])})


def gravest_first(findings: Iterable[Finding]) -> tuple[Finding, ...]:
    """By level; those of one level stay in their order."""
    return tuple(sorted(findings, key=lambda f: GRAVEST_FIRST.index(f.level)))
