"""The tasks of a worker: those built in, those of its data files, those of its task files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from tunesmith_workers.tasks import digits, files
from tunesmith_workers.tasks.registry import Registry
from tunesmith_workers.weights import read_weights


def registry(
    task_files: Sequence[Path] = (),
    data_files: Mapping[str, Path] | None = None,
    weights_files: Mapping[str, Path] | None = None,
) -> Registry:
    """Raises TaskError or WeightsError, naming the file, on one that cannot be used."""
    code = b"".join(f.read_bytes() for f in sorted(Path(__file__).parent.glob("*.py")))
    found = Registry({name: read_weights(name, path) for name, path in (weights_files or {}).items()})
    found.add("digits", digits.task(), code)
    for name, path in (data_files or {}).items():
        found.add(name, files.task(name, path), code)
    for path in task_files:
        found.add_file(path)
    return found
