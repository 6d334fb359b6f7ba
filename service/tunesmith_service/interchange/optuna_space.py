"""Optuna's distributions and our parameters, either way."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from tunesmith_studies.space import Choice, Float, Int, Scalar

Params = Mapping[str, Any]
Used = Mapping[str, Sequence[BaseDistribution]]


def distribution(parameter: Float | Int | Choice, values: Iterable[Scalar]) -> BaseDistribution:
    """One that holds the whole parameter, and all values that trials had: people and stages may go past it.

    A zero beside a log range makes it linear from 0, for Optuna has no such axis; without a trial there the
    range stays logarithmic.
    """
    had = list(values)
    if isinstance(parameter, Choice):
        more = [v for v in had if not parameter.contains(v)]
        return CategoricalDistribution([*parameter.values, *dict.fromkeys(more)])
    ends: list[Any] = [parameter.low, parameter.high, *had]
    low, high = min(ends), max(ends)
    if isinstance(parameter, Float):
        return FloatDistribution(low, high, log=parameter.log and low > 0)
    low, high = int(low), int(high)
    log = parameter.log and low > 0
    on_steps = all((value - low) % parameter.step == 0 for value in (*map(int, had), parameter.low, high))
    return IntDistribution(low, high, log=log, step=parameter.step if on_steps and not log else 1)


def used(trials: Iterable[tuple[Params, Mapping[str, BaseDistribution]]]) -> Used:
    """By parameter, in the order in which trials bring them, the different distributions that it had."""
    found: dict[str, list[BaseDistribution]] = {}
    for _, distributions in trials:
        for name, one in distributions.items():
            if one not in (known := found.setdefault(name, [])):
                known.append(one)
    return found


def space(of: Used, complete: Sequence[Params]) -> dict[str, Any]:
    """A space as a person writes it. Raises: ValueError for what a space of ours cannot hold.

    Args:
        of: what the parameters were drawn from.
        complete: the parameters of complete trials, which tell what is active when.
    """
    plain = {name: _parameter(name, several) for name, several in of.items()}
    choices = [name for name, written in plain.items() if written["type"] == "choice"]
    when = {name: _when(name, choices, complete) for name in plain}
    return {name: written | ({"when": when[name]} if when[name] else {}) for name, written in plain.items()}


def _parameter(name: str, several: Sequence[BaseDistribution]) -> dict[str, Any]:
    """What holds all of them."""
    first = several[0]
    if len({type(one) for one in several}) > 1:
        kinds = ", ".join(sorted({type(one).__name__ for one in several}))
        raise ValueError(f"{name} is of several kinds ({kinds}); a parameter here has one kind")
    if isinstance(first, CategoricalDistribution):
        return {"type": "choice", "values": _choices(name, several)}
    assert isinstance(first, FloatDistribution | IntDistribution)
    numeric = [one for one in several if isinstance(one, FloatDistribution | IntDistribution)]
    found: dict[str, Any] = {
        "type": "float" if isinstance(first, FloatDistribution) else "int",
        "low": min(one.low for one in numeric),
        "high": max(one.high for one in numeric),
        "log": all(one.log for one in numeric),
    }
    if isinstance(first, IntDistribution) and len({(one.low, one.step) for one in numeric}) == 1:
        found["step"] = first.step
    return found


def _choices(name: str, several: Sequence[BaseDistribution]) -> list[Any]:
    values = [v for one in several if isinstance(one, CategoricalDistribution) for v in one.choices]
    for value in values:
        if not isinstance(value, bool | int | float | str):
            raise ValueError(
                f"{name} has the choice {value!r}, and choices here are texts, numbers or truth values; give "
                "it a word in Optuna, such as 'none', and import again"
            )
    return list({(type(v), v): v for v in values}.values())


def _when(name: str, choices: Sequence[str], complete: Sequence[Params]) -> dict[str, list[Scalar]]:
    """Values of one choice that go with having this parameter, if all complete trials agree.

    Some trials must have had the choice and not the parameter: two parameters that only ever come together
    do not decide each other. So conditions never run in a circle.
    """
    having = [params for params in complete if name in params]
    lacking = [params for params in complete if name not in params]
    for choice in choices if having and lacking else ():
        if choice == name or not all(choice in params for params in having):
            continue
        on = dict.fromkeys(params[choice] for params in having)
        others = [params[choice] for params in lacking if choice in params]
        if others and not any(value in on for value in others):
            return {choice: list(on)}
    return {}


def told(of: Used) -> Iterator[str]:
    """A sentence for each thing that a space of ours does not keep."""
    for name, several in of.items():
        if any(isinstance(one, FloatDistribution) and one.step is not None for one in several):
            yield f"{name} had steps, and is a range without steps here."
        if len(several) > 1:
            yield f"{name} had {len(several)} ranges; the one here holds all of them."
