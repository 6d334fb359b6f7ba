"""The form that queues a trial like another: a field a hyperparameter, and what a person has changed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from tunesmith_studies.differences import Difference, differences
from tunesmith_studies.space import Choice, Float, Int, Scalar
from tunesmith_studies.study import StudySpec

from tunesmith_service import by_hand, spaces
from tunesmith_service.errors import TunesmithError, Unprocessable
from tunesmith_service.store import StageRow, Study
from tunesmith_service.trial_store import Trial
from tunesmith_service.ui.study_form import scalar, word


@dataclass(frozen=True, slots=True)
class Field:
    """A hyperparameter: its name in the form, what stands there, where it may lie, what may be chosen."""

    name: str
    key: str
    value: str
    hint: str
    choices: tuple[str, ...] = ()


@dataclass(slots=True)
class Variant:
    """A form as it was sent, or as it begins.

    Attributes:
        original: the trial that is varied.
        sent: field → text; empty: as in the original.
        wrong: field → sentence; `""` has what belongs to no field.
    """

    study: Study
    spec: StudySpec
    stages: Sequence[StageRow]
    original: Trial
    sent: Mapping[str, str] = field(default_factory=dict)
    wrong: dict[str, str] = field(default_factory=dict)

    @property
    def open_stages(self) -> Mapping[str, str]:
        """Stages that it may stand in, with their states."""
        names = by_hand.open_stages(self.spec, self.stages)
        return {row.name: row.state for row in self.stages if row.name in names}

    @property
    def stage(self) -> str:
        """The one chosen; else the original's if it is open, else the first that is active."""
        if (said := self.sent.get("stage", "")) in self.open_stages:
            return said
        if self.original.stage in self.open_stages:
            return self.original.stage
        active = [name for name, state in self.open_stages.items() if state == "active"]
        return next(iter([*active, *self.open_stages]), "")

    @property
    def epochs(self) -> str:
        return self.sent.get("epochs", str(self.original.work["epochs"]))

    def fields(self) -> list[Field]:
        """What varies first, in the study's order, then what is held."""
        space = spaces.as_found(self.spec, self.stages).space
        found = [self._field(name, space[name]) for name in space.names()]
        return found + [self._field(name, None) for name in self.original.params if name not in space]

    def _field(self, name: str, parameter: Float | Int | Choice | None) -> Field:
        key = f"param.{name}"
        value = self.sent.get(key, _word(self.original.params.get(name)))
        if parameter is None:
            return Field(name, key, value, "held by the study")
        when = ", ".join(f"{n} is {' or '.join(map(str, v))}" for n, v in parameter.when.items())
        hint = [] if isinstance(parameter, Choice) else [parameter.shown()]
        hint += [f"if {when}"] if when else []
        choices = tuple(map(_word, parameter.values)) if isinstance(parameter, Choice) else ()
        return Field(name, key, value, "; ".join(hint), choices)

    def changes(self) -> dict[str, Scalar]:
        """The hyperparameters that are said to be otherwise than in the original."""
        space, found = spaces.as_found(self.spec, self.stages).space, dict[str, Scalar]()
        for each in self.fields():
            before = self.original.params.get(each.name)
            if not each.value.strip() or each.value == _word(before):
                continue
            parameter = space.root.get(each.name)
            if isinstance(parameter, Choice):
                found[each.name] = next((v for v in parameter.values if _word(v) == each.value), each.value)
            else:
                found[each.name] = _number(parameter, scalar(each.value.strip()))
        return found

    def asked_epochs(self) -> int | None:
        """Raises: Unprocessable."""
        text = self.epochs.strip()
        if not text:
            return None
        if not (text.isascii() and text.isdecimal() and len(text) < 7 and int(text)):
            raise Unprocessable(f"epochs={text[:20]} must be a whole number from 1 on")
        return int(text)

    def prepared(self) -> by_hand.Prepared | None:
        """The trial as it would be queued; None if something is wrong, which then stands in `wrong`."""
        try:
            return by_hand.prepared(
                self.study, self.spec, self.stages, [self.changes()], self.stage or None,
                self.asked_epochs(), self.original,
            )  # fmt: skip
        except TunesmithError as error:
            for sentence in [e["message"] for e in error.errors] or [error.detail]:
                self._blame(sentence)
            return None

    def _blame(self, sentence: str) -> None:
        """Sentences about a hyperparameter begin with its name."""
        names = {f.name: f.key for f in self.fields()} | {"epochs": "epochs"}
        about = [n for n in names if sentence.startswith((f"{n} ", f"{n}="))]
        key = names[max(about, key=len)] if about else ""
        self.wrong.setdefault(key, sentence)

    def differences(self) -> tuple[Difference, ...] | None:
        """None if it cannot be told."""
        ready = self.prepared()
        if ready is None:
            return None
        was = {**self.original.params, "stage": self.original.stage, "epochs": self.original.work["epochs"]}
        return differences(was, {**ready.params[0], "stage": ready.stage, "epochs": ready.work.epochs})


def _word(value: Any) -> str:
    return "" if value is None else word(value)


def _number(parameter: Float | Int | None, value: Scalar) -> Scalar:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return parameter.cast(value) if isinstance(parameter, Float) and is_number else value
