"""The interface's description for people: what the OpenAPI document says, operation by operation."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

_METHODS = ("get", "post", "put", "patch", "delete")


@dataclass(frozen=True, slots=True)
class Operation:
    anchor: str
    method: str
    path: str
    title: str
    about: str
    role: str
    parameters: list[Mapping[str, Any]]
    body: str  # an example, or the name of its schema
    curl: str
    answers: list[tuple[str, str, str]]  # status, description, example


def operations(document: Mapping[str, Any], address: str) -> dict[str, list[Operation]]:
    """Tag → its operations, in the document's order."""
    found: dict[str, list[Operation]] = {}
    for path, methods in document["paths"].items():
        for method in _METHODS:
            if method in methods:
                tag = (methods[method].get("tags") or ["about"])[0]
                found.setdefault(tag, []).append(_operation(path, method, methods[method], address))
    return found


def schemas(document: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Name → JSON schema, as text."""
    return [
        (n, json.dumps(s, indent=2, ensure_ascii=False))
        for n, s in sorted(document["components"]["schemas"].items())
    ]


def _operation(path: str, method: str, said: Mapping[str, Any], address: str) -> Operation:
    content = said.get("requestBody", {}).get("content", {})
    body = _example(next(iter(content.values()), {}))
    role = said.get("x-tunesmith-role", "")
    curl = ["curl"] + ([f"-X {method.upper()}"] if method != "get" else [])
    curl += ['-H "Authorization: Bearer $TUNESMITH_TOKEN"'] if role else []
    curl += ["-H 'Content-Type: application/json' -d @body.json"] if "application/json" in content else []
    return Operation(
        anchor=f"{method}-{path.strip('/').replace('/', '-').replace('{', '').replace('}', '')}",
        method=method.upper(),
        path=path,
        title=said.get("summary", ""),
        about=said.get("description", ""),
        role=role,
        parameters=said.get("parameters", []),
        body=body,
        curl=" ".join([*curl, f"'{address}{path}'"]),
        answers=[
            (status, r.get("description", ""), _example(next(iter(r.get("content", {}).values()), {})))
            for status, r in said["responses"].items()
        ],
    )


def _example(media: Mapping[str, Any]) -> str:
    examples = [e["value"] for e in media.get("examples", {}).values() if "value" in e]
    if "example" in media:
        examples.insert(0, media["example"])
    if examples:
        return json.dumps(examples[0], indent=2, ensure_ascii=False)
    return str(media.get("schema", {}).get("$ref", "")).rpartition("/")[2]
