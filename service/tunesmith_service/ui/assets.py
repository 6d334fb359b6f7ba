"""Static files under names that change with their content, so that browsers may keep them for ever.

They are read once, at start, into a table by name: no client's string is ever part of a path.
"""

from __future__ import annotations

import gzip
import hashlib
import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from tunesmith_service.ui import vendor

STATIC = Path(__file__).parent / "static"
_MEDIA_TYPES = {
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}


@dataclass(frozen=True)
class Asset:
    name: str  # as it stands in URLs
    media_type: str
    body: bytes

    @cached_property
    def gzipped(self) -> bytes:
        return gzip.compress(self.body, 6, mtime=0)


class Assets:
    """Our own files by `own("app.css")`, those of npm packages by `vendored("echarts")`."""

    def __init__(self) -> None:
        self._by_name: dict[str, Asset] = {}
        self._own: dict[str, str] = {}
        self._vendored: dict[str, str] = {}
        for path in STATIC.iterdir():
            if path.suffix in _MEDIA_TYPES:
                digest = hashlib.sha256(path.read_bytes()).hexdigest()[:10]
                self._own[path.name] = self._add(path, f"{path.stem}.{digest}{path.suffix}")
        lock = json.loads(vendor.LOCK.read_text())
        for file, (package, _) in vendor.vendored_files(lock).items():
            if file.endswith(".js"):
                self._vendored[package] = self._add(vendor.VENDOR / file, file)

    def _add(self, path: Path, name: str) -> str:
        self._by_name[name] = Asset(name, _MEDIA_TYPES[path.suffix], path.read_bytes())
        return name

    def own(self, file: str) -> str:
        return self._own[file]

    def vendored(self, package: str) -> str:
        return self._vendored[package]

    def compress(self) -> None:
        """All of them, once."""
        for asset in self._by_name.values():
            _ = asset.gzipped

    def get(self, name: str) -> Asset | None:
        return self._by_name.get(name)
