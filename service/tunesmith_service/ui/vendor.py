"""Fetch the front end's third-party files from npm into `static/vendor/`: `make vendor`.

`vendor.lock.json` names each package, its version, npm's integrity of its archive, its licence, and
the files we ship with their sha256. To move to another version, change the version, empty the
integrity and the hashes, and run this: it fills them in. What it finds otherwise must agree with
the lock. (zrender is inside ECharts' file; only its licence is ours to carry.)
"""

from __future__ import annotations

import base64
import hashlib
import json
import subprocess
import tarfile
import tempfile
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
LOCK = HERE / "vendor.lock.json"
VENDOR = HERE / "static" / "vendor"


def vendored_files(lock: dict[str, Any]) -> dict[str, tuple[str, dict[str, str]]]:
    """File name in `static/vendor/` → (package, its entry in the lock)."""
    return {
        name.format(version=package["version"]): (npm_name, entry)
        for npm_name, package in lock.items()
        for name, entry in package["files"].items()
    }


def problems() -> list[str]:
    """Where `static/vendor/` and the lock disagree, a sentence each."""
    expected = vendored_files(json.loads(LOCK.read_text()))
    found = {path.name for path in VENDOR.iterdir()}
    out = [f"{name} is in the lock but not in static/vendor" for name in sorted(expected.keys() - found)]
    out += [f"{name} is in static/vendor but not in the lock" for name in sorted(found - expected.keys())]
    for name in sorted(found & expected.keys()):
        sha256 = hashlib.sha256((VENDOR / name).read_bytes()).hexdigest()
        if sha256 != expected[name][1]["sha256"]:
            out.append(
                f"{name} has sha256 {sha256}, the lock says {expected[name][1]['sha256'] or 'nothing'}"
            )
    return out


def _fetch(npm_name: str, version: str, into: Path) -> Path:
    command = ["npm", "pack", "--silent", f"{npm_name}@{version}"]
    done = subprocess.run(command, cwd=into, check=True, capture_output=True, text=True)  # noqa: S603
    return into / done.stdout.strip().splitlines()[-1]


def _agree(what: str, locked: str, found: str) -> str:
    if locked and locked != found:
        raise SystemExit(f"{what}: the lock says {locked}, npm gave {found}; nothing was written")
    return found


def refresh() -> None:
    """Fetch every package and write its files and the lock.

    Raises: SystemExit if an archive or a file is not what the lock says.
    """
    lock = json.loads(LOCK.read_text())
    contents: dict[str, bytes] = {}
    with tempfile.TemporaryDirectory() as scratch:
        for npm_name, package in lock.items():
            archive = _fetch(npm_name, package["version"], Path(scratch))
            digest = base64.b64encode(hashlib.sha512(archive.read_bytes()).digest()).decode()
            package["integrity"] = _agree(npm_name, package["integrity"], f"sha512-{digest}")
            with tarfile.open(archive) as tar:
                for name, entry in package["files"].items():
                    member = tar.extractfile(f"package/{entry['from']}")
                    if member is None:
                        raise SystemExit(f"{npm_name} has no file {entry['from']}; nothing was written")
                    body = member.read()
                    entry["sha256"] = _agree(name, entry["sha256"], hashlib.sha256(body).hexdigest())
                    contents[name.format(version=package["version"])] = body
    VENDOR.mkdir(parents=True, exist_ok=True)
    for path in VENDOR.iterdir():
        path.unlink()
    for name, body in contents.items():
        (VENDOR / name).write_bytes(body)
    LOCK.write_text(json.dumps(lock, indent=2) + "\n")


if __name__ == "__main__":
    refresh()
