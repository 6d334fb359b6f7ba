"""Study files as people write them: YAML or JSON, from a path or among the shipped examples."""

from __future__ import annotations

import json
import math
import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, date, datetime
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any

import yaml

EXAMPLES = "tunesmith_studies.examples"


class _Loader(yaml.SafeLoader):
    """YAML without its two traps: 1e-3 is a number, and a key that stands twice is an error."""


# YAML 1.1 wants a dot before the exponent: PyYAML reads 1e-3 as text, which a list of values would keep.
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"[-+]?(\d+\.\d*|\.\d+|\d+)[eE][-+]?\d+$"),
    list("-+0123456789."),
)


def _mapping(loader: _Loader, node: yaml.MappingNode) -> Iterator[dict[Any, Any]]:
    seen: dict[Any, int] = {}
    for key_node, _ in node.value:
        line = key_node.start_mark.line + 1
        if not isinstance(key_node, yaml.ScalarNode):
            raise ValueError(f"line {line}: a key is a word; text in braces or brackets is written in quotes")
        key = loader.construct_object(key_node, deep=True)
        if key in seen:
            raise ValueError(f"line {line}: {key!r} stands twice, first in line {seen[key]}")
        seen[key] = line
    yield from loader.construct_yaml_map(node)


_Loader.add_constructor("tag:yaml.org,2002:map", _mapping)


def examples() -> dict[str, Traversable]:
    """The shipped example studies by name."""
    found = (f for f in files(EXAMPLES).iterdir() if f.name.endswith(".yaml"))
    return {f.name.removesuffix(".yaml"): f for f in sorted(found, key=lambda f: f.name)}


def read(source: str) -> dict[str, Any]:
    """What a study file (or a file with one stage) says, ready to be sent as JSON.

    Args:
        source: a path, `-` for standard input, or the name of a shipped example.
    Raises: ValueError with the file's name and what to repair.
    """
    return parse(_text(source), source)


def parse(text: str, source: str) -> dict[str, Any]:
    """What a study file with this text says; `source` is what errors call it. Raises ValueError."""
    try:
        data = yaml.load(text, Loader=_Loader)  # noqa: S506 (a SafeLoader)
        if not isinstance(data, dict):
            found = "empty" if data is None else f"a {type(data).__name__}"
            raise ValueError(f"a file of `key: value` lines is needed, this is {found}")
        plain: dict[str, Any] = json.loads(json.dumps(_plain(data)))
        return plain
    except yaml.YAMLError as e:
        raise ValueError(f"{source}: {_place(e)}") from e
    except ValueError as e:
        raise ValueError(f"{source}: {e}") from e


def changes(settings: Iterable[str]) -> dict[str, Any]:
    """New values by path as typed: `stages.coarse.epochs=5`; what stands behind the sign is YAML.

    >>> changes(["space.lr.high=1e-1", "fixed.optimizer=adam", "stages.coarse.axes.lr=[1e-3, 1e-2]"])
    {'space.lr.high': 0.1, 'fixed.optimizer': 'adam', 'stages.coarse.axes.lr': [0.001, 0.01]}
    >>> changes(["limits="])
    {'limits': None}

    Raises: ValueError.
    """
    found: dict[str, Any] = {}
    for setting in settings:
        path, equals, written = setting.partition("=")
        if not (path.strip() and equals):
            raise ValueError(f"--set {setting}: write PATH=VALUE, such as --set stages.coarse.epochs=5")
        found[path.strip()] = parse(f"value: {written.strip()}", f"--set {setting}")["value"]
    return found


def _place(error: yaml.YAMLError) -> str:
    """What is wrong with a YAML text, and where."""
    if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark is not None:
        mark = error.problem_mark
        while_ = f" {error.context}" if error.context else ""
        return f"line {mark.line + 1}, column {mark.column + 1}{while_}: {error.problem}"
    return " ".join(str(error).split())


def written(data: Mapping[str, Any]) -> str:
    """A specification as the file that a person could have written."""
    return yaml.safe_dump(dict(data), sort_keys=False, default_flow_style=None, allow_unicode=True, width=100)


def _text(source: str) -> str:
    if source == "-":
        return sys.stdin.read()
    if Path(source).is_file():
        return Path(source).read_text(encoding="utf-8")
    shipped = examples()
    if source not in shipped:
        raise ValueError(f"no file {source!r} here, and no such example; shipped are: {', '.join(shipped)}")
    return shipped[source].read_text(encoding="utf-8")


def _plain(value: Any) -> Any:
    """Dates as ISO texts; what JSON cannot hold is named."""
    match value:
        case dict():
            return {str(k): _plain(v) for k, v in value.items()}
        case list():
            return [_plain(v) for v in value]
        case datetime():
            return (value if value.tzinfo else value.replace(tzinfo=UTC)).isoformat()
        case date():
            return value.isoformat()
        case float() if not math.isfinite(value):
            raise ValueError(f"holds {value}, which is no setting")
        case None | bool() | int() | float() | str():
            return value
        case _:
            raise ValueError(f"holds a {type(value).__name__}, which is no setting")
