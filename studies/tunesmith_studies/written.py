"""A specification as a person would have written it: without what has its usual value."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel

TELLING = ("kind", "name", "type", "metric", "direction")
"""Words that stay though they may be usual: they say what the rest is about."""


def short(model: BaseModel) -> dict[str, Any]:
    """JSON that reads back as the same model."""
    whole = model.model_dump(mode="json")
    brief = model.model_dump(mode="json", exclude_defaults=True)
    return _telling(whole, brief)


def _telling(whole: Mapping[str, Any], brief: Mapping[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in whole.items():
        if key in brief:
            found[key] = _both(value, brief[key])
        elif key in TELLING and value not in ("", None):
            found[key] = value
        elif key == "objective":
            found[key] = _telling(value, {})
    return found


def _both(whole: Any, brief: Any) -> Any:
    if isinstance(whole, Mapping) and isinstance(brief, Mapping):
        return _telling(whole, brief)
    if isinstance(whole, list) and isinstance(brief, list) and len(whole) == len(brief):
        return [_both(w, b) for w, b in zip(whole, brief, strict=True)]
    return brief
