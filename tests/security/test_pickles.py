"""Nothing that comes from elsewhere is unpickled, neither by the service nor by a worker; the audit hook of
their processes is the judge."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

from . import pickles
from .conftest import Watched, in_watched_process

FILES = list(pickles.files())

READERS = """
import json, warnings
from pathlib import Path
import numpy, torch
from safetensors import safe_open
from tunesmith_workers import snapshots, weights
from tunesmith_workers.tasks import files, registry
import tunesmith_workers.tasks.table, tunesmith_workers.tasks.images

told = {"read": [], "refused": 0}
def read(path):
    for suffix, reader in (
        ("", snapshots.load), ("", lambda p: weights.read_weights("w", p)),
        (".npz", lambda p: files.task("t", p)), (".csv", lambda p: files.task("t", p)),
        (".parquet", lambda p: files.task("t", p)), (".safetensors", lambda p: weights.read_weights("w", p)),
    ):
        named = path if not suffix else path.rename(path.with_name(path.name + suffix))
        try:
            reader(named)
        except (snapshots.SnapshotCorrupt, weights.WeightsError, registry.TaskError):
            told["refused"] += 1
        else:
            told["read"].append(named.name)
        path = named

paths = sorted(Path(HOME, "files").iterdir())
warm = Path(HOME, "files", "warm")
warm.write_bytes(paths[0].read_bytes())
read(warm)  # whatever the readers load themselves is loaded from here on
told = {"read": [], "refused": 0}
watched.watch(HITS, HOME)
for path in paths:
    read(path)
Path(HOME, "told.json").write_text(json.dumps(told))
"""


def test_there_are_enough_of_them_and_they_are_what_they_say(tmp_path: Path):
    assert len(FILES) >= 50
    script = "watched.watch(HITS, HOME)\nimport pickle, sys\nfrom pathlib import Path\n"
    script += "import os; os.chdir(HOME)\nfor p in sorted(Path(HOME, 'files').iterdir()):\n"
    script += "    try: pickle.loads(p.read_bytes())\n    except Exception: pass\n"
    folder = tmp_path / "files"
    folder.mkdir()
    for name, body in FILES[:3]:
        (folder / name).write_bytes(body)
    seen = in_watched_process(script, tmp_path)
    assert sum(line.startswith("pickle.find_class") for line in seen) == 3
    assert sum(line.startswith("os.system") for line in seen) == 3
    assert (tmp_path / "owned").exists()


@pytest.mark.parametrize("as_what", ["snapshots", "artifacts", "logs"])
def test_the_service_unpickles_nothing(watched: Watched, as_what: str):
    trial, lease = watched.lease()
    name = f"leased-{watched._leases - 1}"
    people = watched.people
    for seq, (file, body) in enumerate(FILES, 1):
        sha256 = hashlib.sha256(body).hexdigest()
        there = f"/leases/{trial}"
        if as_what == "logs":
            watched.post(f"{there}/logs", {"seq": seq, "text": body.decode("latin-1")}, headers=lease)
            continue
        stored = people.put(f"{there}/blobs/{sha256}", content=body, headers=lease)
        assert stored.status_code == 204, stored.text
        if as_what == "snapshots":
            said = people.post(f"{there}/snapshots", json={"sha256": sha256, "step": seq}, headers=lease)
            assert said.status_code in (200, 422), (
                said.text
            )  # some are sound files that hold a pickle's bytes
        else:
            watched.post(f"{there}/artifacts", {"sha256": sha256, "name": file}, headers=lease)
    if as_what == "artifacts":
        for known in ("confusion.json", "samples.json", "inspection.json"):
            body = FILES[0][1]
            people.put(
                f"/leases/{trial}/blobs/{hashlib.sha256(body).hexdigest()}", content=body, headers=lease
            )
            watched.post(
                f"/leases/{trial}/artifacts",
                {"name": known, "sha256": hashlib.sha256(body).hexdigest()},
                headers=lease,
            )
        for file, body in FILES:
            got = people.get(f"/studies/{name}/trials/0/artifacts/{file}")
            assert got.content == body
            assert got.headers["content-type"] == "application/octet-stream"
            assert got.headers["content-disposition"].startswith("attachment")
    for path in (
        "",
        "/trials/0",
        "/trials/0/curve",
        "/trials/0/logs",
        "/report",
        "/trials/export",
        "/findings",
        *(f"/trials/0/views/{v}" for v in ("losses", "confusion", "samples", "rates")),
    ):
        assert people.get(f"/studies/{name}{path}").status_code in (200, 404, 422), path
    assert watched.hits() == []


def test_a_worker_unpickles_nothing(tmp_path: Path):
    folder = tmp_path / "files"
    folder.mkdir()
    for name, body in FILES:
        (folder / name).write_bytes(body)
    hits = [
        line
        for line in in_watched_process(READERS, tmp_path)
        if not (
            line.startswith("open") and str(tmp_path) in line
        )  # the files themselves, which it shall read
    ]
    assert hits == []
    told = json.loads((tmp_path / "told.json").read_text())
    # Only as what it is may it be read: named tensors that happen to hold the bytes of a pickle.
    assert all(".safetensors" in name for name in told["read"]), told["read"]
    assert told["refused"] > 5 * len(FILES)
    assert not (tmp_path / "owned").exists()
