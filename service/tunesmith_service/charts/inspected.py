"""Artifacts that people look at, read from what a worker wrote: nothing of it is trusted.

A document is checked value by value and written anew: texts are cut, numbers are numbers, pictures begin as
a PNG does. `inspection.py` of the workers says what is in it.
"""

from __future__ import annotations

import base64
import binascii
import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

from tunesmith_service.errors import NotFound, Unprocessable
from tunesmith_service.stores import Store
from tunesmith_service.trial_store import Artifact

MOST_BYTES = 4_000_000
MOST_CLASSES = 256
MOST_SAMPLES = 64
MOST_VALUES = 64
MOST_TEXT = 64
MOST_PICTURE = 64_000
_PNG = b"\x89PNG\r\n\x1a\n"
DOCUMENTS = ("confusion", "predictions", "mistakes")


def find(artifacts: Sequence[Artifact], name: str) -> Artifact:
    """A document by its name without `.json`. Raises: NotFound; Unprocessable if it is too large."""
    found = next((a for a in artifacts if a.name == f"{name}.json"), None)
    if found is None:
        raise NotFound(f"the trial left no {name}.json")
    if found.size > MOST_BYTES:
        raise Unprocessable(f"{name}.json is too large to be shown here; download it")
    return found


def read(blobs: Store, found: Artifact, name: str) -> dict[str, Any]:
    """What stands in a document. Blocks. Raises: NotFound; Unprocessable if it is not what its name says."""
    try:
        written = json.loads(blobs.read_bytes(found.sha256), parse_constant=_refused)
        return confusion(written) if name == "confusion" else samples(written)
    except (ValueError, TypeError, KeyError, RecursionError) as wrong:
        raise Unprocessable(f"{name}.json is not what its name says: {wrong}") from wrong


def confusion(written: Any) -> dict[str, Any]:
    """{"classes": [text], "counts": [[int]], "samples": n}; a row a true class. Raises ValueError."""
    if not isinstance(written, Mapping):
        raise ValueError("it is no object")
    classes = [_text(c) for c in written["classes"]]
    counts = written["counts"]
    if not 0 < len(classes) <= MOST_CLASSES:
        raise ValueError(f"it has {len(classes)} classes; 1 to {MOST_CLASSES} can be shown")
    if len(counts) != len(classes) or any(len(row) != len(classes) for row in counts):
        raise ValueError("its counts are not one row and one column a class")
    rows = [[_count(n) for n in row] for row in counts]
    return {"classes": classes, "counts": rows, "samples": sum(map(sum, rows))}


def samples(written: Any) -> dict[str, Any]:
    """{"samples": [{index, input, prediction, truth, probability, truth_probability, loss}]}."""
    if not isinstance(written, Mapping) or not isinstance(written["samples"], list):
        raise ValueError("it has no list of samples")
    return {"samples": [_sample(s) for s in written["samples"][:MOST_SAMPLES]]}


def _sample(written: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "index": _count(written["index"]),
        "input": _input(written["input"]),
        "prediction": _said(written["prediction"]),
        "truth": _said(written["truth"]),
        "probability": _number(written.get("probability")),
        "truth_probability": _number(written.get("truth_probability")),
        "loss": _number(written.get("loss")),
    }


def _input(written: Mapping[str, Any]) -> dict[str, Any]:
    if "png" in written:
        picture = str(written["png"])
        if len(picture) > MOST_PICTURE:
            raise ValueError("a picture is too large")
        try:
            is_png = base64.b64decode(picture, validate=True).startswith(_PNG)
        except binascii.Error as wrong:
            raise ValueError("a picture is no base64") from wrong
        if not is_png:
            raise ValueError("a picture is no PNG")
        return {"png": picture}
    values = [_number(v) for v in written["values"][:MOST_VALUES]]
    return {"values": values, "shape": [_count(n) for n in written.get("shape", [])[:8]]}


def _said(written: Any) -> str | list[float | str | None]:
    """A class as text, or the numbers of a target that is none."""
    if isinstance(written, list):
        return [_number(v) for v in written[:MOST_VALUES]]
    return _text(written)


def _text(written: Any) -> str:
    return str(written)[:MOST_TEXT]


def _count(written: Any) -> int:
    if not isinstance(written, int) or isinstance(written, bool) or not 0 <= written < 2**53:
        raise ValueError("a count is no whole number")
    return written


def _number(written: Any) -> float | str | None:
    if written is None or written in ("NaN", "Infinity", "-Infinity"):
        return written  # type: ignore[no-any-return]
    value = float(written)
    if not math.isfinite(value):
        raise ValueError("a number is not finite")
    return float(f"{value:.6g}")


def _refused(word: str) -> Any:
    raise ValueError(f"{word} is no JSON")
