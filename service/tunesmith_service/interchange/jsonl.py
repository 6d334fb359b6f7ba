"""Trials with their whole curves, one a line, as the API shows them: nothing is rounded or left out."""

from __future__ import annotations

import json
import os
from pathlib import Path

from tunesmith_service.study_handle import Study


def export(study: Study, file: Path, *, filter: str = "", sort: str = "number") -> int:
    """Write those that a filter picks; the file appears once all have come. Returns: how many."""
    trials = 0
    part = file.with_name(f"{file.name}.part")
    try:
        with part.open("w", encoding="utf-8") as lines:
            for trial in study.trials(filter, sort=sort):
                curve = study.curve(trial["number"])
                lines.write(json.dumps(trial | {"curve": curve}, ensure_ascii=False) + "\n")
                trials += 1
        os.replace(part, file)
    finally:
        part.unlink(missing_ok=True)
    return trials
