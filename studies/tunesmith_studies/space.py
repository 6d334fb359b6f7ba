"""The search space: what may vary, on which scale, under which condition.

A parameter knows its own scale. `position` maps a value to [0, 1] on that scale and `value` maps
back, so that grids, neighbours, quasi-random points and Optuna's distributions agree about
distances without knowing about logarithms or zeros.

>>> space = Space({"lr": {"low": 1e-4, "high": 1e-1, "log": True}, "optimizer": ["sgd", "adam"]})
>>> [round(v, 6) for v in space["lr"].grid(4)]
[0.0001, 0.001, 0.01, 0.1]
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import BeforeValidator, ConfigDict, Field, RootModel, model_validator

from tunesmith_studies.checked import Checked, Listed, also_written

PRINTED = "^[^\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]*$"
"""Names that people see hold no control characters, and none that turns the text around them."""

Name: TypeAlias = Annotated[str, Field(min_length=1, max_length=128, pattern=PRINTED)]
Scalar: TypeAlias = bool | int | float | str
Params: TypeAlias = Mapping[str, Scalar]

ZERO_SHARE = 0.125
"""On a log axis with a zero, the first eighth of [0, 1] means 0 (see `design`: one axis for Optuna)."""


def _one_is_a_list(value: Any) -> Any:
    return value if isinstance(value, list | tuple) else [value]


OneOf: TypeAlias = Annotated[
    Listed[Scalar], BeforeValidator(_one_is_a_list, json_schema_input_type=Scalar | list[Scalar])
]


class _Parameter(Checked):
    when: Mapping[str, OneOf] = Field(
        default_factory=dict,
        description="Active only while each named choice holds this value, or one of these.",
    )


class Float(_Parameter):
    """A real hyperparameter on [low, high], both ends included; `log` spaces it by ratio.

    `zero` adds the value 0 beside a log range, as weight decay needs. `values` are the points that
    a grid takes when a stage names none.
    """

    type: Literal["float"] = "float"
    low: float = Field(allow_inf_nan=False)
    high: float = Field(allow_inf_nan=False)
    log: bool = False
    zero: bool = False
    values: Listed[float] = ()

    @model_validator(mode="after")
    def _sound(self) -> Float:
        if self.low > self.high:
            raise ValueError(f"low must not be above high, got low={self.low:g}, high={self.high:g}")
        if self.log and self.low <= 0:
            raise ValueError(
                f"log: true needs low > 0, got low={self.low:g}; "
                "to allow 0 beside a log range write a positive low and zero: true"
            )
        if self.zero and not self.log:
            raise ValueError("zero: true goes with log: true; a linear range starts at low: 0 instead")
        for v in self.values:
            if not self.contains(v):
                raise ValueError(f"values holds {v:g}, outside [{self.low:g}, {self.high:g}]")
        return self

    def contains(self, value: Scalar) -> bool:
        if isinstance(value, bool | str) or not math.isfinite(value):
            return False
        slack = 1e-9 * max(abs(self.low), abs(self.high))
        return (self.zero and value == 0) or self.low - slack <= value <= self.high + slack

    def cast(self, value: Scalar) -> float:
        """The same number as a float: 1 and 1.0 are one cell."""
        return float(value)

    def middle(self) -> float:
        """The middle of the scale; a zero beside a log range is left aside."""
        return tidy(self.positive().value(0.5))

    def positive(self) -> Float:
        """The range alone, without the zero beside it."""
        return self.model_copy(update={"zero": False}) if self.zero else self

    def shown(self) -> str:
        """The range for people, such as `0 or [1e-06, 0.01]`."""
        return ("0 or " if self.zero else "") + f"[{self.low:g}, {self.high:g}]"

    def position(self, value: float) -> float:
        """Where `value` lies on the scale: 0 at low, 1 at high; a zero beside a log range is 0."""
        if self.zero:
            return 0.0 if value == 0 else ZERO_SHARE + (1 - ZERO_SHARE) * self._plain(value)
        return self._plain(value)

    def value(self, position: float) -> float:
        """The value at a position in [0, 1]; the inverse of `position`."""
        if self.zero:
            if position < ZERO_SHARE:
                return 0.0
            position = (position - ZERO_SHARE) / (1 - ZERO_SHARE)
        p = min(max(position, 0.0), 1.0)
        if self.log:
            spread: float = self.low * (self.high / self.low) ** p
            return min(max(spread, self.low), self.high)
        return self.low + (self.high - self.low) * p

    def _plain(self, value: float) -> float:
        if self.low == self.high:
            return 0.0
        if self.log:
            return math.log(value / self.low) / math.log(self.high / self.low)
        return (value - self.low) / (self.high - self.low)

    def grid(self, points: int) -> tuple[float, ...]:
        """`points` values evenly spaced on the scale, ends included; a zero comes first and extra."""
        if points < 1:
            raise ValueError(f"a grid needs at least one point, got {points}")
        plain = self.positive()
        spread = [0.5] if points == 1 else [i / (points - 1) for i in range(points)]
        return ((0.0,) if self.zero else ()) + tuple(tidy(plain.value(p)) for p in spread)


class Int(_Parameter):
    """A whole hyperparameter on [low, high]; `step` spaces it evenly, `log` by ratio."""

    model_config = ConfigDict(json_schema_extra={"required": ["type", "low", "high"]})  # else it is a float

    type: Literal["int"] = "int"
    low: int
    high: int
    log: bool = False
    step: int = Field(default=1, ge=1)
    values: Listed[int] = ()

    @model_validator(mode="after")
    def _sound(self) -> Int:
        if self.low > self.high:
            raise ValueError(f"low must not be above high, got low={self.low}, high={self.high}")
        if self.log and self.low < 1:
            raise ValueError(f"log: true needs low >= 1 for an int, got low={self.low}")
        if self.log and self.step != 1:
            raise ValueError(f"an int is spaced by log or by step, not both; got step={self.step}")
        for v in self.values:
            if not self.contains(v):
                raise ValueError(f"values holds {v}, outside [{self.low}, {self.high}]")
        return self

    def cast(self, value: Scalar) -> int:
        return int(value)

    def shown(self) -> str:
        return f"the whole numbers from {self.low} to {self.high}"

    def contains(self, value: Scalar) -> bool:
        return isinstance(value, int) and not isinstance(value, bool) and self.low <= value <= self.high

    def position(self, value: float) -> float:
        if self.low == self.high:
            return 0.0
        if self.log:
            return math.log(value / self.low) / math.log(self.high / self.low)
        return (value - self.low) / (self.high - self.low)

    def value(self, position: float) -> int:
        p = min(max(position, 0.0), 1.0)
        if self.log:
            raw: float = self.low * (self.high / self.low) ** p
        else:
            raw = self.low + round((self.high - self.low) * p / self.step) * self.step
        return min(max(round(raw), self.low), self.high)

    def middle(self) -> int:
        return self.value(0.5)

    def every(self) -> tuple[int, ...]:
        return tuple(range(self.low, self.high + 1, self.step))

    def grid(self, points: int) -> tuple[int, ...]:
        """At most `points` whole values evenly spaced on the scale, without repeats."""
        if points < 1:
            raise ValueError(f"a grid needs at least one point, got {points}")
        spread = [0.5] if points == 1 else [i / (points - 1) for i in range(points)]
        return tuple(dict.fromkeys(self.value(p) for p in spread))


class Choice(_Parameter):
    """One of a few values, without an order."""

    type: Literal["choice"] = "choice"
    values: Listed[Scalar] = Field(min_length=1)

    @model_validator(mode="after")
    def _sound(self) -> Choice:
        if len({(type(v), v) for v in self.values}) != len(self.values):
            raise ValueError(f"values must differ, got {list(self.values)}")
        return self

    def cast(self, value: Scalar) -> Scalar:
        return value

    def shown(self) -> str:
        return f"the choices {list(self.values)}"

    def contains(self, value: Scalar) -> bool:
        return any(type(v) is type(value) and v == value for v in self.values)

    def position(self, value: Scalar) -> float:
        return self.values.index(value) / max(len(self.values) - 1, 1)

    def value(self, position: float) -> Scalar:
        return self.values[min(int(position * len(self.values)), len(self.values) - 1)]

    def middle(self) -> Scalar:
        """The first: choices have no order, and people write the usual one first."""
        return self.values[0]

    def every(self) -> tuple[Scalar, ...]:
        return self.values

    def grid(self, points: int) -> tuple[Scalar, ...]:
        """All values: a category cannot be thinned out."""
        return self.values


class Preset(_Parameter):
    """A range of weight decay by depth and data; what else is written stands in place of the preset's own."""

    preset: Literal["shallow", "deep", "complex"]
    type: Literal["float"] = "float"
    low: float = Field(default_factory=float)
    high: float = Field(default_factory=float)
    log: bool = True
    zero: bool = Field(default_factory=bool)
    values: Listed[float] = Field(default_factory=tuple)


Parameter: TypeAlias = Annotated[
    Float | Int | Choice,
    Field(discriminator="type"),
    also_written(Float | Int | Choice | Preset | list[Scalar]),
]

PRESETS: Mapping[str, Mapping[str, Any]] = {
    # Smith 1803.09820 §4.4: shallow nets and small data want more decay, deep or complex less, or none.
    "shallow": {"low": 1e-4, "high": 1e-2, "log": True, "values": [1e-4, 1e-3, 1e-2]},
    "deep": {"low": 1e-6, "high": 1e-4, "log": True, "zero": True, "values": [0, 1e-6, 1e-5, 1e-4]},
}
"""Weight-decay ranges by depth and data; `complex` is another name for `deep`."""


def _written_short(name: str, written: Any) -> Any:
    """The full form of what a person may write short: a list is a choice, a range is a float."""
    if isinstance(written, list | tuple):
        return {"type": "choice", "values": list(written)}
    if isinstance(written, Mapping) and "preset" in written:
        preset = PRESETS.get("deep" if written["preset"] == "complex" else str(written["preset"]))
        if preset is None:
            raise ValueError(f"{name}: preset must be shallow, deep or complex, got {written['preset']!r}")
        return {"type": "float", **preset, **{k: v for k, v in written.items() if k != "preset"}}
    if isinstance(written, Mapping) and not written.keys() & {"type", "low", "high", "values"}:
        raise ValueError(
            f"{name}: write low and high of a range, or its choices as a list such as [a, b]; "
            f"got {', '.join(map(str, written)) or 'nothing'}"
        )
    if isinstance(written, Mapping) and "type" not in written:
        return {"type": "choice" if "low" not in written and "values" in written else "float", **written}
    if isinstance(written, bool | int | float | str):
        raise ValueError(
            f"{name}: {written!r} is one value; write it under fixed:, or as a list to choose from"
        )
    return written


class Space(RootModel[dict[Name, Parameter]]):
    """Named parameters; a condition may only name a choice, and conditions have no cycle."""

    model_config = ConfigDict(frozen=True)

    @model_validator(mode="before")
    @classmethod
    def _expand(cls, data: Any) -> Any:
        if isinstance(data, Mapping):
            return {str(k): _written_short(str(k), v) for k, v in data.items()}
        return data

    @model_validator(mode="after")
    def _conditions_stand(self) -> Space:
        for name, parameter in self.root.items():
            for other, wanted in parameter.when.items():
                decider = self.root.get(other)
                if not isinstance(decider, Choice):
                    raise ValueError(f"{name}: when names {other!r}, which is not a choice of this space")
                for value in wanted:
                    if not decider.contains(value):
                        raise ValueError(f"{name}: when asks for {other}={value!r}, not among its values")
        self.order()
        return self

    def __getitem__(self, name: str) -> Float | Int | Choice:
        return self.root[name]

    def __contains__(self, name: object) -> bool:
        return name in self.root

    def __len__(self) -> int:
        return len(self.root)

    def names(self) -> tuple[str, ...]:
        return tuple(self.root)

    def items(self) -> Iterator[tuple[str, Float | Int | Choice]]:
        return iter(self.root.items())

    def order(self) -> tuple[str, ...]:
        """Names such that a parameter comes after all that decide whether it is active."""
        done: dict[str, None] = {}
        open_: set[str] = set()

        def visit(name: str) -> None:
            if name in done:
                return
            if name in open_:
                raise ValueError(f"{name}: conditions run in a circle")
            open_.add(name)
            for other in self.root[name].when:
                visit(other)
            done[name] = None

        for name in self.root:
            visit(name)
        return tuple(done)

    def active(self, params: Params) -> tuple[str, ...]:
        """The names that these values switch on, deciders first."""
        on: list[str] = []
        for name in self.order():
            when = self.root[name].when
            if all(other in on and params.get(other) in wanted for other, wanted in when.items()):
                on.append(name)
        return tuple(on)

    def switched_on(self, params: Params) -> dict[str, Scalar]:
        """These values without those that are not active here; names outside the space stay."""
        active = self.active(params)
        return {n: v for n, v in params.items() if n not in self.root or n in active}

    def middle(self, held: Params) -> dict[str, Scalar]:
        """A complete point: `held` as it is, every other active parameter in the middle of its scale."""
        point = dict(held)
        for name in self.order():
            parameter = self.root[name]
            if name not in point and all(
                point.get(other) in wanted for other, wanted in parameter.when.items()
            ):
                point[name] = parameter.middle()
        return point

    def without(self, held: Params) -> Space:
        """What is left to vary once `held` is held, with conditions on held choices settled."""
        left: dict[str, Float | Int | Choice] = {}
        for name in self.order():
            parameter = self.root[name]
            if name in held or not self._can_be_active(name, held):
                continue
            when = {other: wanted for other, wanted in parameter.when.items() if other not in held}
            left[name] = parameter.model_copy(update={"when": when})
        return Space.model_construct(root={n: left[n] for n in self.root if n in left})

    def widened(self, ranges: Mapping[str, Sequence[float]]) -> Space:
        """This space with ranges that hold [low, high] as well; names that are no range here are left out."""
        wider = dict(self.root)
        for name, (low, high) in ranges.items():
            parameter = wider.get(name)
            if isinstance(parameter, Float | Int):
                ends = {"low": min(parameter.low, low), "high": max(parameter.high, high)}
                wider[name] = parameter.model_copy(update=ends)
        return Space.model_construct(root=wider)

    def within(self, ranges: Mapping[str, Sequence[float]]) -> Space:
        """This space with [low, high] of these ranges instead of their own, and nothing beside them: no
        zero, no values outside. Names that are no range here are left out."""
        other = dict(self.root)
        for name, (low, high) in ranges.items():
            parameter = other.get(name)
            if isinstance(parameter, Float | Int):
                narrow = parameter.model_copy(update={"low": low, "high": high, "values": ()})
                if isinstance(narrow, Float):
                    narrow = narrow.positive()
                kept = tuple(v for v in parameter.values if narrow.contains(v))
                other[name] = narrow.model_copy(update={"values": kept})
        return Space.model_construct(root=other)

    def _can_be_active(self, name: str, held: Params) -> bool:
        return all(
            held[other] in wanted if other in held else self._can_be_active(other, held)
            for other, wanted in self.root[name].when.items()
        )

    def problems(self, params: Params) -> list[str]:
        """What is wrong with these values, one sentence each; empty if they are a point of the space."""
        active = self.active(params)
        found = [f"{n} is missing" for n in active if n not in params]
        found += [f"{n} is not active here" for n in params if n in self.root and n not in active]
        for name in active:
            if name in params and not self.root[name].contains(params[name]):
                allowed = self.root[name].shown()
                found.append(f"{name}={params[name]!r} is outside the space, which has {allowed}")
        return found


def tidy(value: float) -> float:
    """Twelve significant digits: the same cell computed two ways is the same number."""
    return float(f"{value:.12g}")


def canonical(params: Params) -> str:
    """A text that is equal exactly when two points are; used as the key of a cell."""
    return ",".join(f"{k}={_shown(params[k])}" for k in sorted(params))


def _shown(value: Scalar) -> str:
    if isinstance(value, float):
        return repr(tidy(value)) if value != 0 else "0.0"
    return repr(value)
