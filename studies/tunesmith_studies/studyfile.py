"""Study files: YAML or JSON text to plain data, and what is wrong with data to sentences with places.

>>> load_study("space: {lr: {low: 1e-4, high: 0.1, log: true}}")
{'space': {'lr': {'low': 0.0001, 'high': 0.1, 'log': True}}}
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Hashable, Sequence
from typing import Any

import yaml
from pydantic import ValidationError


class StudyFileError(ValueError):
    """A study file that cannot be read; the message says where and what to do."""


class _Loader(yaml.SafeLoader):
    """YAML 1.2's plain values, without tags, dates and repeated keys.

    PyYAML speaks YAML 1.1, where 1e-4 is a text, `no` is false and 2026-12-01 is a date.
    """

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):
                if key.value in seen:
                    line = key.start_mark.line + 1
                    raise StudyFileError(f"line {line}: {key.value} stands here twice; keep one of them")
                seen.add(key.value)
        return super().construct_mapping(node, deep)


_Loader.yaml_implicit_resolvers = {}
for _tag, _pattern, _first in (
    ("bool", r"true|True|TRUE|false|False|FALSE", "tTfF"),
    ("null", r"~|null|Null|NULL|", "~nN\0"),
    ("int", r"[-+]?[0-9]+", "-+0123456789"),
    ("float", r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?", "-+.0123456789"),
):
    firsts = ["" if c == "\0" else c for c in _first]
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(f"^(?:{_pattern})$"), firsts)


def _decimal(loader: yaml.SafeLoader, node: yaml.ScalarNode) -> int:
    """YAML 1.1 reads 010 as eight; people who write it mean ten."""
    return int(loader.construct_scalar(node))


_Loader.add_constructor("tag:yaml.org,2002:int", _decimal)


def load_study(text: str) -> dict[str, Any]:
    """The data of a study file, unchecked. Raises StudyFileError with the line and what to do."""
    try:
        data = yaml.load(text, Loader=_Loader)  # noqa: S506 - a SafeLoader with fewer tags
    except yaml.MarkedYAMLError as error:
        line = f"line {error.problem_mark.line + 1}: " if error.problem_mark else ""
        raise StudyFileError(f"{line}not YAML: {error.problem or error.context}; correct it there") from error
    except yaml.YAMLError as error:
        raise StudyFileError(f"not YAML: {error}") from error
    except RecursionError as error:
        raise StudyFileError("lists and maps lie too deep in each other; a study needs few levels") from error
    if not isinstance(data, dict):
        raise StudyFileError(
            "a study file is a map such as `name: …`, `task: …`; examples ship with Tunesmith"
        )
    return data


def complaints(error: ValidationError, data: Any) -> list[dict[str, str]]:
    """What a person must change: JSON pointers into `data` as it was written, and a sentence each."""
    return [
        {"pointer": _pointer(e["loc"], data, e["type"]), "message": _sentence(dict(e))}
        for e in error.errors(include_url=False)
    ]


def _pointer(loc: Sequence[str | int], data: Any, kind: str) -> str:
    """Pydantic's place without the union tags that it mixes in and that `data` does not have."""
    parts: list[str] = []
    node = data
    for i, part in enumerate(loc):
        here = isinstance(node, dict) and part in node
        if here or (isinstance(node, list | tuple) and isinstance(part, int) and part < len(node)):
            node = node[part]
        elif not (kind == "missing" and i == len(loc) - 1):
            continue
        parts.append(str(part).replace("~", "~0").replace("/", "~1"))
    return "".join(f"/{part}" for part in parts)


def _sentence(error: dict[str, Any]) -> str:
    kind, context = error["type"], error.get("ctx", {})
    name = str(error["loc"][-1]) if error["loc"] else "this"
    if kind == "union_tag_invalid":
        known = [tag.strip("' ") for tag in str(context["expected_tags"]).split(",")]
        near = difflib.get_close_matches(str(context["tag"]), known, n=1)
        meant = f"; did you mean {near[0]}?" if near else ""
        return f"unknown kind {context['tag']!r}{meant or '; use one of: ' + ', '.join(known)}"
    if kind == "union_tag_not_found":
        return "kind is missing; it says what this is"
    if kind == "missing":
        return f"{name} is missing; add it"
    if kind == "extra_forbidden":
        return f"{name} is not known here; leave it out, or correct its spelling"
    message: str = error["msg"]
    return message.removeprefix("Value error, ")
