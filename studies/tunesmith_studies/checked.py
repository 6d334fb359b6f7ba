"""What the parts of a study have in common: they are taken as they stand, or refused."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Annotated, Any, TypeAlias, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

Item = TypeVar("Item")

Listed: TypeAlias = Annotated[tuple[Item, ...], Field(strict=False)]
"""A list in JSON; its items are as strict as all else."""

Range: TypeAlias = Annotated[tuple[int | float, int | float], Field(strict=False)]
"""[low, high]."""

_WHOLE = (int, int | None, tuple[int, ...])


class Checked(BaseModel):
    """A part of a study. Nothing is guessed: "5" and true are no numbers, 1 is no truth value, and a field
    that is not known is a mistake. Only 5.0 is 5, for JSON has one kind of number.

    >>> class Example(Checked):
    ...     epochs: int = 1
    >>> Example(epochs=5.0).epochs
    5
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    @model_validator(mode="before")
    @classmethod
    def _whole_numbers(cls, data: Any) -> Any:
        if not isinstance(data, Mapping):
            return data
        whole = _whole_fields(cls)
        return {name: _whole(value) if name in whole else value for name, value in data.items()}


def also_written(forms: Any) -> BeforeValidator:
    """Tell the JSON schema all forms that may be written. They are read elsewhere: by a validator of the
    model itself, or of what it stands in."""
    return BeforeValidator(lambda data: data, json_schema_input_type=forms)


@cache
def _whole_fields(model: type[BaseModel]) -> frozenset[str]:
    return frozenset(n for n, field in model.model_fields.items() if field.annotation in _WHOLE)


def _whole(value: Any) -> Any:
    if isinstance(value, list | tuple):
        return [_whole(v) for v in value]
    return int(value) if type(value) is float and value.is_integer() else value
