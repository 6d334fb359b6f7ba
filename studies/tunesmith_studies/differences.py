"""What two specifications differ in, field by field, and a specification with some fields changed.

A field is named by its path, words with dots between: `limits.max_trials`, `space.lr.high`. A stage stands
under its name: `stages.coarse.epochs`. So the path of a difference is also how one asks for it.

>>> was = {"seed": 0, "stages": [{"name": "coarse", "epochs": 3}]}
>>> now = changed(was, {"stages.coarse.epochs": 5, "seed": 1})
>>> [(d.path, d.was, d.now) for d in differences(was, now)]
[('seed', 0, 1), ('stages.coarse.epochs', 3, 5)]
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

NAMED = "stages"
"""The list whose items are known by their names."""


@dataclass(frozen=True, slots=True)
class Difference:
    """One field: what it was and what it is; None where it is not there."""

    path: str
    was: Any
    now: Any


def differences(was: Mapping[str, Any], now: Mapping[str, Any]) -> tuple[Difference, ...]:
    """The fields that differ, in the order of `was`; what only `now` has comes behind. A part that one of
    them lacks is one difference."""
    return tuple(_between(_by_name(was), _by_name(now), ""))


def _by_name(spec: Mapping[str, Any]) -> dict[str, Any]:
    stages = spec.get(NAMED) or ()
    return {**spec, NAMED: {_name(s): s for s in stages}}


def _name(stage: Mapping[str, Any]) -> str:
    return str(stage.get("name") or stage.get("kind"))


def _between(was: Mapping[str, Any], now: Mapping[str, Any], path: str) -> Iterator[Difference]:
    for key in dict.fromkeys([*was, *now]):
        here = f"{path}.{key}" if path else key
        old, new = was.get(key), now.get(key)
        if isinstance(old, Mapping) and isinstance(new, Mapping):
            yield from _between(old, new, here)
        elif repr(old) != repr(new) and not (_is_same_number(old, new)):
            yield Difference(here, old, new)
    if path == NAMED and list(was) != list(now) and set(was) == set(now):
        yield Difference(path, list(was), list(now))


def _is_same_number(old: Any, new: Any) -> bool:
    """1 and 1.0 are one value, True and 1 are two."""
    numbers = all(isinstance(v, int | float) and not isinstance(v, bool) for v in (old, new))
    return numbers and old == new


def changed(spec: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """A copy of `spec` in which each path has its new value; None takes the field away.

    Raises: ValueError for a path that leads through something that holds no fields, or names no stage.
    """
    found = copy.deepcopy(dict(spec))
    for path, value in changes.items():
        _set(found, path, value, path)
    return found


def cloned(spec: Mapping[str, Any], name: str, changes: Mapping[str, Any]) -> dict[str, Any]:
    """A study's specification under another name, with these changes; not checked yet. Stages that a recipe
    wrote are written anew if something of the recipe changes.

    Raises: ValueError as `changed`.
    """
    found = changed(spec, changes) | {"name": name}
    touched = {path.partition(".")[0] for path in changes}
    if "recipe" in touched and NAMED not in touched:
        found.pop(NAMED, None)
        if isinstance(recipe := found.get("recipe"), dict):
            recipe.pop("notes", None)
    return found


def _set(holder: Any, left: str, value: Any, path: str) -> None:
    if not left:
        raise ValueError(f"{path}: name a field, such as limits.max_trials or stages.coarse.epochs")
    key, rest = _step(holder, left, path)
    if isinstance(holder, list):
        if rest:
            _set(holder[key], rest, value, path)
        elif value is None:
            del holder[key]
        else:
            holder[key] = value
    elif rest:
        if holder.get(key) is None:
            holder[key] = {}
        _set(holder[key], rest, value, path)
    elif value is None:
        holder.pop(key, None)
    else:
        holder[key] = value


def _step(holder: Any, left: str, path: str) -> tuple[Any, str]:
    """The first key of `left` and what is left behind it; a key that is there may have dots in it."""
    if isinstance(holder, list):
        names = [_name(item) if isinstance(item, Mapping) else "" for item in holder]
        known = _longest(names, left)
        if known is None:
            listed = ", ".join(names) or "none"
            raise ValueError(f"{path}: there is no stage of that name; there are {listed}")
        return names.index(known), left[len(known) + 1 :]
    if not isinstance(holder, dict):
        raise ValueError(f"{path}: {_shown(holder)} is a value and holds no fields")
    known = _longest(list(holder), left)
    if known is None:
        known = left.partition(".")[0]
    return known, left[len(known) + 1 :]


def _longest(names: Sequence[str], left: str) -> str | None:
    fits = [n for n in names if n and (left == n or left.startswith(f"{n}."))]
    return max(fits, key=len) if fits else None


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 40 else f"{text[:40]}…"
