"""Columns as files in the server's home: after a start the first chart of 100,000 trials waits only for what
has changed since. A cache: a file that cannot be read, or is of another database, is as good as none."""

from __future__ import annotations

import json
import os
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import structlog

from tunesmith_service.columns import MOST_CHANGED, OF_ALL, Columns, Words

log = structlog.get_logger(__name__)


class ColumnFiles:
    """One file a study.

    Args:
        directory: made when it is needed.
        instance: which database, and which state of its restores and migrations, this is.
    """

    def __init__(self, directory: Path, instance: str) -> None:
        self._directory, self._instance = directory, instance
        self._at: dict[int, int] = {}  # study → the event up to which its file is true

    def load(self, study_id: int, created_us: int) -> Columns | None:
        """What was kept of the study that was made at that time; an id may have belonged to another."""
        try:
            with open(self._file(study_id), "rb") as file, np.load(file, allow_pickle=False) as data:
                about = json.loads(data["about"].tobytes())
                if about["of"] != [self._instance, study_id, created_us]:
                    return None
                found = _columns(about, data)
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
            return None
        self._at[study_id] = found.at
        return found

    def lacks_much_of(self, study_id: int, columns: Columns) -> bool:
        """Whether reading what the file lacks would come to as much as reading all."""
        return columns.at - self._at.get(study_id, 0) >= MOST_CHANGED

    def keep(self, study_id: int, created_us: int, columns: Columns) -> None:
        """Write them down, or say in the log why not."""
        file = self._file(study_id)
        about = _about(columns) | {"of": [self._instance, study_id, created_us]}
        try:
            self._directory.mkdir(exist_ok=True, mode=0o700)
            with open(f"{file}.new", "wb") as new:
                np.savez(new, about=np.frombuffer(json.dumps(about).encode(), np.uint8), **_arrays(columns))
            os.replace(f"{file}.new", file)
        except OSError as error:
            log.warning("columns.not_kept", study=study_id, error=str(error))
            return
        self._at[study_id] = columns.at

    def forget(self, study_id: int) -> None:
        """A study that was deleted."""
        self._file(study_id).unlink(missing_ok=True)
        self._at.pop(study_id, None)

    def _file(self, study_id: int) -> Path:
        return self._directory / f"columns-{study_id}.npz"


def _about(columns: Columns) -> dict[str, Any]:
    words = [[name, column.labels] for name, column in columns.words.items()]
    return {"at": columns.at, "stages": columns.stages, "numbers": list(columns.numbers), "words": words}


def _arrays(columns: Columns) -> dict[str, Any]:
    kinds = {
        "of_all": (getattr(columns, name) for name in OF_ALL),
        "numbers": columns.numbers.values(),
        "words": (column.codes for column in columns.words.values()),
    }
    return {f"{kind}{i}": array for kind, arrays in kinds.items() for i, array in enumerate(arrays)}


def _columns(about: dict[str, Any], data: Any) -> Columns:
    words = {name: Words(data[f"words{i}"], tuple(labels)) for i, (name, labels) in enumerate(about["words"])}
    return Columns(
        at=about["at"],
        stages=tuple(about["stages"]),
        numbers={name: data[f"numbers{i}"] for i, name in enumerate(about["numbers"])},
        words=words,
        **{name: data[f"of_all{i}"] for i, name in enumerate(OF_ALL)},
    )
