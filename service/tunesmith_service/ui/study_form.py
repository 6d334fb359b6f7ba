"""The form for a new study: its fields to a specification, and a specification's errors back to its fields.

A row of the space is `space.0.name`, `space.0.kind`, … and of what does not vary `fixed.0.name`,
`fixed.0.value`. Rows without any text are left out.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import yaml

from tunesmith_service.cli import study_file
from tunesmith_service.parsing import MAX_DEPTH

MOST_ROWS = 64
SPARE_ROWS = 1
"""Empty rows at the end, for those without scripts too."""

_ROW = re.compile(r"(space|fixed)\.([0-9]{1,3})\.(\w+)")
_INT = re.compile(r"[-+]?[0-9]{1,16}")
_FLOAT = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d{1,3})?")
LIMITS = ("max_trials", "max_gpu_hours", "max_concurrent", "deadline")

KEPT = (
    "resources", "priority", "seed_mode", "keep_best", "retries", "snapshot_every_seconds",
    "fresh_wait_seconds", "notes",
)  # fmt: skip
KEPT_OF_OBJECTIVE = ("reduce", "k", "target")
KEPT_OF_PARAMETER = ("when", "values", "step")
"""What the form has no fields for: a clone has it from its original."""

BLANK: Mapping[str, str] = {
    "metric": "val/loss", "direction": "minimize", "plan": "recipe", "recipe": "standard", "seed": "0",
    "space.0.name": "lr", "space.0.kind": "float", "space.0.low": "1e-4", "space.0.high": "1",
    "space.0.log": "on",
    "space.1.name": "weight_decay", "space.1.kind": "float", "space.1.low": "1e-6", "space.1.high": "1e-2",
    "space.1.log": "on", "space.1.zero": "on",
    "fixed.0.name": "batch_size", "fixed.0.value": "64",
}  # fmt: skip
"""What a new form starts with."""


@dataclass(slots=True)
class Form:
    """A form as it was sent, and what is wrong with it.

    Attributes:
        values: field → text.
        wrong: field → sentence; `""` has what belongs to no field.
        places: JSON pointer into the specification → field that wrote it.
        base: of a clone, the original's specification without what is usual; what the form has no fields for
            is from there.
    """

    values: Mapping[str, str]
    wrong: dict[str, str] = field(default_factory=dict)
    places: dict[str, str] = field(default_factory=dict)
    base: Mapping[str, Any] = field(default_factory=dict)

    def text(self, name: str) -> str:
        return self.values.get(name, "").strip()

    def rows(self, kind: str) -> list[int]:
        """Numbers of the rows to show: those with text, and a spare one."""
        used = self._used(kind)
        return [*used, *range(max(used, default=-1) + 1, max(used, default=-1) + 1 + SPARE_ROWS)]

    def _used(self, kind: str) -> list[int]:
        found = {
            int(m[2])
            for name, value in self.values.items()
            if (m := _ROW.fullmatch(name)) and m[1] == kind and m[3] != "kind" and value.strip()
        }
        return sorted(found)[:MOST_ROWS]

    def add_wrong(self, name: str, sentence: str) -> None:
        """The first sentence of a field stays."""
        self.wrong.setdefault(name, sentence[:1].upper() + sentence[1:])

    def blame(self, errors: list[dict[str, str]]) -> None:
        """Put each of a problem's `errors` beside the field that wrote what it points at."""
        for error in errors:
            pointer, message = error["pointer"], error["message"]
            here = pointer
            while here and here not in self.places:
                here = here.rpartition("/")[0]
            name = self.places.get(here, "")
            where = pointer[len(here) :].strip("/").replace("/", ", ")
            sentence = f"{where}: {message}" if where and name in ("", "stages", "yaml") else message
            if name in ("", "yaml") and name in self.wrong:  # holds more than one value: all are told
                self.wrong[name] = f"{self.wrong[name]}; {sentence}"
            else:
                self.add_wrong(name, sentence)

    # --- fields to a specification ---

    def specification(self) -> dict[str, Any]:
        """What the fields say, as JSON; what cannot be said goes into `wrong`."""
        data: dict[str, Any] = _of(self.base, KEPT)
        for name in ("name", "task"):
            self._put(data, f"/{name}", name, name)
        self._put(data, "/seed", "seed", "seed", scalar)
        objective = _of(self.base.get("objective", {}), KEPT_OF_OBJECTIVE)
        self._put(objective, "/objective/metric", "metric", "metric")
        self._put(objective, "/objective/direction", "direction", "direction")
        self.places["/objective"] = "direction"
        data["objective"] = objective
        data["space"], data["fixed"] = self._space(), self._fixed()
        limits: dict[str, Any] = {}
        for name in LIMITS:
            self._put(limits, f"/limits/{name}", name, name, str if name == "deadline" else scalar)
        if limits:
            data["limits"] = limits
        self._plan(data)
        return data

    def _put(self, into: dict[str, Any], pointer: str, key: str, name: str, read: Any = str) -> None:
        self.places[pointer] = name
        if self.text(name):
            into[key] = read(self.text(name))

    def _plan(self, data: dict[str, Any]) -> None:
        self.places |= {"/recipe": "recipe", "/recipe/epochs": "recipe_epochs", "/stages": "stages"}
        if self.text("plan") != "stages":
            recipe: dict[str, Any] = {"name": self.text("recipe") or "standard"}
            self._put(recipe, "/recipe/epochs", "epochs", "recipe_epochs", scalar)
            data["recipe"] = recipe
            return
        if (wrote := self.base.get("recipe")) is not None:
            data["recipe"] = wrote  # it wrote the stages of the original, and says what it could not
        try:
            data["stages"] = read_yaml(f"stages:\n{self.text('stages')}", "stages", line=1)["stages"]
        except ValueError as error:
            self.add_wrong("stages", str(error))
        else:
            if not data["stages"]:
                self.add_wrong("stages", "write at least one stage, such as - kind: coarse_grid")

    def _space(self) -> dict[str, Any]:
        space: dict[str, Any] = {}
        self.places["/space"] = "space.0.name"
        for row in self._used("space"):
            at = f"space.{row}."
            name, kind = self.text(f"{at}name"), self.text(f"{at}kind") or "float"
            if not self._is_new(name, space, f"{at}name"):
                continue
            pointer = f"/space/{_escaped(name)}"
            self.places[pointer] = f"{at}values" if kind == "choice" else f"{at}low"
            before = self.base.get("space", {}).get(name, {})
            said = _of(before, KEPT_OF_PARAMETER) if before.get("type") == kind else {}
            said["type"] = kind
            self._put(said, f"{pointer}/values", "values", f"{at}values", scalars)
            if kind != "choice":
                for word in ("low", "high"):
                    self._put(said, f"{pointer}/{word}", word, f"{at}{word}", scalar)
                for word in ("log", "zero"):
                    self.places[f"{pointer}/{word}"] = f"{at}{word}"
                    if self.text(f"{at}{word}"):
                        said[word] = True
            space[name] = said
        return space

    def _fixed(self) -> dict[str, Any]:
        fixed: dict[str, Any] = {}
        for row in self._used("fixed"):
            name = self.text(f"fixed.{row}.name")
            if not self._is_new(name, fixed, f"fixed.{row}.name"):
                continue
            self.places[f"/fixed/{_escaped(name)}"] = f"fixed.{row}.value"
            if self.text(f"fixed.{row}.value"):
                fixed[name] = scalar(self.text(f"fixed.{row}.value"))
            else:
                self.add_wrong(f"fixed.{row}.value", "is missing")
        return fixed

    def _is_new(self, name: str, known: Mapping[str, Any], at: str) -> bool:
        if not name:
            self.add_wrong(at, "give this hyperparameter a name")
        elif name in known:
            self.add_wrong(at, f"{name} stands here twice; leave one of them")
        return bool(name) and name not in known


def _of(data: Mapping[str, Any], names: tuple[str, ...]) -> dict[str, Any]:
    return {name: data[name] for name in names if name in data}


def _escaped(name: str) -> str:
    return name.replace("~", "~0").replace("/", "~1")


def scalar(text: str) -> bool | int | float | str:
    """
    >>> scalar("64"), scalar("1e-3"), scalar("true"), scalar("adam"), scalar("1e999")
    (64, 0.001, True, 'adam', '1e999')
    """
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    if _INT.fullmatch(text):
        return int(text)
    if _FLOAT.fullmatch(text) and math.isfinite(number := float(text)):
        return number
    return text


def word(value: bool | int | float | str) -> str:
    """A value as `scalar` reads it back.

    >>> word(1e-3), word(True), word("adam"), word(64)
    ('0.001', 'true', 'adam', '64')
    """
    if isinstance(value, bool):
        return str(value).lower()
    return repr(value) if isinstance(value, float) else str(value)


def scalars(text: str) -> list[bool | int | float | str]:
    """
    >>> scalars("momentum, adam,")
    ['momentum', 'adam']
    """
    return [scalar(part.strip()) for part in text.split(",") if part.strip()]


def read_yaml(text: str, source: str, *, line: int = 0) -> dict[str, Any]:
    """A study's YAML as it comes from a stranger: no aliases, which grow without bound, no depth.

    Args:
        line: how many lines stand before the person's own.
    Raises: ValueError with the place.
    """
    depth = 0
    try:
        for event in yaml.parse(text, Loader=yaml.SafeLoader):
            if isinstance(event, yaml.AliasEvent):
                at = (event.start_mark.line if event.start_mark else 0) + 1 - line
                raise ValueError(f"line {at}: write out what *{event.anchor} stands for")
            depth += isinstance(event, yaml.CollectionStartEvent)
            depth -= isinstance(event, yaml.CollectionEndEvent)
            if depth > MAX_DEPTH:
                raise ValueError(f"nested more than {MAX_DEPTH} deep")
    except yaml.MarkedYAMLError as error:
        at = error.problem_mark.line + 1 - line if error.problem_mark else 1
        raise ValueError(f"line {at}: {error.problem}") from error
    except yaml.YAMLError as error:
        raise ValueError(" ".join(str(error).split())) from error
    return study_file.parse(text, source)
