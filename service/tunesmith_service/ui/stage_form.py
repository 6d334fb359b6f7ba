"""The form for a stage that is added to a study: its fields to a stage as JSON, errors back to its fields."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from tunesmith_studies.space import Choice, Float, Int
from tunesmith_studies.study import StudySpec, free_name

from tunesmith_service.ui.study_form import read_yaml, scalar, word

KINDS = ("coarse_grid", "random", "sampler")
"""Kinds that the form knows; the text knows all."""

KEPT = ("budget", "validate_every", "data_fraction")
"""What the form has no fields for: it is as the finding proposes."""


@dataclass(frozen=True, slots=True)
class Range:
    """A row of the form: a number that varies, and where the space has it."""

    name: str
    low: str
    high: str
    space: str


@dataclass(slots=True)
class StageForm:
    """A form as it was sent, or as it begins.

    Attributes:
        spec: the study as its next stage finds it.
        proposed: the stage that a finding proposes; empty if none does.
        values: field → text.
        wrong: field → sentence; `""` has what belongs to no field.
    """

    spec: StudySpec
    proposed: Mapping[str, Any]
    values: Mapping[str, str]
    wrong: dict[str, str] = field(default_factory=dict)

    @classmethod
    def begun(cls, spec: StudySpec, proposed: Mapping[str, Any]) -> StageForm:
        names = [s.name for s in spec.stages]
        kind = str(proposed.get("kind", "random"))
        points = max(proposed.get("axes", {"": 10}).values())
        values = {
            "mode": "fields", "kind": kind, "name": free_name(str(proposed.get("name", kind)), names),
            "source": str(proposed.get("source", "")), "epochs": str(proposed.get("epochs", "")),
            "points": str(points),
        }  # fmt: skip
        for name, (low, high) in proposed.get("ranges", {}).items():
            values |= {f"range.{name}.low": word(low), f"range.{name}.high": word(high)}
        return cls(spec, proposed, values)

    def text(self, name: str) -> str:
        return self.values.get(name, "").strip()

    @property
    def is_text(self) -> bool:
        return self.text("mode") == "yaml"

    @property
    def sources(self) -> list[str]:
        return [s.name for s in self.spec.stages if s.ranks]

    def ranges(self) -> list[Range]:
        """Every number of the space; those that are said first."""
        rows = [
            Range(name, self.text(f"range.{name}.low"), self.text(f"range.{name}.high"), parameter.shown())
            for name, parameter in self.spec.space.items()
            if not isinstance(parameter, Choice) and name not in self.spec.fixed
        ]
        return sorted(rows, key=lambda r: not (r.low or r.high))

    def stage(self) -> dict[str, Any] | None:
        """The stage as JSON, not checked yet; None if it cannot be read, which then stands in `wrong`."""
        if not self.is_text:
            return self._of_fields()
        try:
            return read_yaml(self.values.get("yaml", ""), "the text")
        except ValueError as error:
            self.wrong["yaml"] = str(error)
            return None

    def _of_fields(self) -> dict[str, Any]:
        kind = self.text("kind")
        found: dict[str, Any] = {"kind": kind, "name": self.text("name")}
        if self.text("source"):
            found["source"] = self.text("source")
        found |= {name: self.proposed[name] for name in KEPT if name in self.proposed}
        if self.text("epochs"):
            found["epochs"] = scalar(self.text("epochs"))
        said = [r for r in self.ranges() if r.low or r.high]
        ranges = {
            r.name: [_end(self.spec, r.name, r.low, "low"), _end(self.spec, r.name, r.high, "high")]
            for r in said
        }
        points = scalar(self.text("points")) if self.text("points") else None
        if kind == "coarse_grid":
            found |= {"around_best": True, "axes": dict.fromkeys(ranges, 3 if points is None else points)}
        elif points is not None:
            found["trials"] = points
        return found | ({"ranges": ranges} if ranges else {})

    def blame(self, errors: Sequence[Mapping[str, str]]) -> None:
        """Put each error beside the field that it speaks of."""
        for error in errors:
            sentence = error["message"].removeprefix(f"stage {self.text('name')}: ")
            key = "yaml" if self.is_text else self._field(error["pointer"].strip("/"), sentence)
            said = sentence if key or not error["pointer"] else f"{error['pointer']}: {sentence}"
            self.wrong[key] = f"{self.wrong[key]}; {said}" if key in self.wrong else said

    def _field(self, pointer: str, sentence: str) -> str:
        first, _, rest = pointer.partition("/")
        if first in ("name", "epochs", "source", "kind"):
            return first
        if first in ("trials", "axes"):
            return "points"
        for row in self.ranges():
            is_named = first == "ranges" and rest.partition("/")[0] == row.name
            if is_named or f"range of {row.name} " in sentence or sentence.startswith(f"{row.name} is"):
                return f"range.{row.name}.low"
        return "name" if "stages are named" in sentence else ""


def _end(spec: StudySpec, name: str, text: str, end: Literal["low", "high"]) -> Any:
    """A typed end of a range; one that is empty is the space's own."""
    parameter = spec.space[name]
    assert isinstance(parameter, Float | Int)
    return scalar(text) if text else getattr(parameter, end)
