"""Every field of a request that takes text is among those that `flooded` fills: a new one must join them."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from typing import Any

from pydantic import BaseModel
from tunesmith_service import wire
from tunesmith_service.api import importing, models
from tunesmith_studies.study import StudySpec
from ui.flooded import FIELDS

FILLED_BY = {
    "Register.name": "worker", "Register.version": "version", "Register.tasks": "served task",
    "Slot.devices": "device", "ReportPoint.metrics": "metric", "LogChunk.text": "log",
    "CommitArtifact.name": "artifact", "TrialError.kind": "error", "TrialError.message": "message",
    "TrialError.traceback": "traceback", "StudySpec.name": "study", "StudySpec.task": "task",
    "StudySpec.notes": "notes", "StudySpec.fixed": "fixed", "Clone.name": "study", "Clone.changes": "choice",
    "Objective.metric": "objective", "Recipe.notes": "recipe", "Choice.values": "choice",
    "NewNote.text": "note", "NewToken.name": "token", "Why.reason": "reason",
    "OverrideReason.reason": "override", "Tagging.add": "tag", "Tagging.remove": "tag",
    "Claim.study": "study", "ClaimRequest.study": "study",
    "Enqueue.params": "parameter", "Enqueue.stage": "stage", "Around.around": "stage",
    "Imported.origin": "sentence", "Import.stage": "stage", "ImportedTrial.params": "parameter",
    "ImportedTrial.error": "message", "ImportedTrial.attributes": "note",
}  # fmt: skip
"""Which of FIELDS has what is sent there."""
NAMES_OF_OTHERS = {
    "name": "stage", "source": "stage", "fixed": "fixed", "axes": "parameter", "points": "parameter",
    "param": "parameter", "per": "parameter", "when": "parameter", "ranges": "parameter",
}  # fmt: skip
"""Of stages and parameters: what names, or is given to, something of the study."""


def places() -> Iterator[str]:
    """`Model.field` for each that takes text, or has names that one chooses."""
    asked = [
        m
        for m in (*vars(wire).values(), *vars(models).values(), *vars(importing).values(), StudySpec)
        if inspect.isclass(m)
    ]
    for model in asked:
        if issubclass(model, wire.Request | models.Question | StudySpec):
            yield from _of(model)


def _of(model: type[BaseModel]) -> Iterator[str]:
    whole = model.model_json_schema()
    for schema in (whole, *whole.get("$defs", {}).values()):
        for name, field in schema.get("properties", {}).items():
            if _takes_text(field):
                yield f"{schema['title']}.{name}"


def _takes_text(schema: Any) -> bool:
    if isinstance(schema, list):
        return any(map(_takes_text, schema))
    if not isinstance(schema, dict):
        return False
    if schema.get("type") == "string":
        return not {"enum", "const", "format"} & schema.keys() and not _is_hex(schema)
    if "propertyNames" in schema or (
        schema.get("type") == "object" and schema.get("additionalProperties") is True
    ):
        return True
    inner = ("items", "prefixItems", "anyOf", "oneOf", "allOf", "additionalProperties", "patternProperties")
    return any(_takes_text(schema[key]) for key in inner if key in schema)


def _is_hex(schema: dict[str, Any]) -> bool:
    return str(schema.get("pattern", "")).startswith("^[0-9a-f]")


def test_every_field_that_takes_text_is_filled():
    found = set(places())
    assert len(found) > 50
    unknown = [p for p in found if p not in FILLED_BY and p.partition(".")[2] not in NAMES_OF_OTHERS]
    assert not unknown, "fill these in flooded.py, and say by which of its fields"
    assert FILLED_BY.keys() <= found
    assert {*FILLED_BY.values(), *NAMES_OF_OTHERS.values()} <= {*FIELDS}
