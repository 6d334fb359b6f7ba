"""What a trial of a study needs of a slot."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import Field

from tunesmith_studies.checked import Checked


class Resources(Checked):
    """Without `gpus` a trial takes any slot, and the built-in trainer one device of it."""

    gpus: int | None = Field(
        default=None, ge=1, le=64,
        description="Devices that train each trial together; slots with fewer are not offered it.",
    )  # fmt: skip


def gpus_of(spec: Mapping[str, Any]) -> int:
    """How many devices a slot must have for a trial of a stored study, which may be older than this field."""
    return (spec.get("resources") or {}).get("gpus") or 1
