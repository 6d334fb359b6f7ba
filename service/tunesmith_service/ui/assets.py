"""Static files under names that change with their content, so that browsers may keep them for ever.

They are read once, at start, into a table by name: no client's string is ever part of a path. Scripts that
pages need together are one file for the browser: each costs a request before the first chart is drawn.
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
TOGETHER = {
    "app.js": ("session", "app", "copy"),
    "charts.js": (
        "charts", "keys", "band", "curves", "range-test", "history", "pareto", "map", "importance",
        "timeline", "lineage", "pruning", "edf",
    ),
    "explore.js": ("filter", "parallel", "slices", "explore"),
}  # fmt: skip
"""What each of our scripts is for the browser, in this order; all others stand for themselves."""


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
        within = {f"{stem}.js" for stems in TOGETHER.values() for stem in stems}
        for path in STATIC.iterdir():
            if path.suffix in _MEDIA_TYPES and path.name not in within:
                self._add_own(path.name, path.read_bytes())
        for name, stems in TOGETHER.items():
            self._add_own(name, b"".join((STATIC / f"{stem}.js").read_bytes() for stem in stems))
        lock = json.loads(vendor.LOCK.read_text())
        for file, (package, _) in vendor.vendored_files(lock).items():
            if file.endswith(".js"):
                self._vendored[package] = self._add(file, (vendor.VENDOR / file).read_bytes())

    def _add_own(self, file: str, body: bytes) -> None:
        stem, dot, suffix = file.rpartition(".")
        self._own[file] = self._add(f"{stem}.{hashlib.sha256(body).hexdigest()[:10]}{dot}{suffix}", body)

    def _add(self, name: str, body: bytes) -> str:
        self._by_name[name] = Asset(name, _MEDIA_TYPES[Path(name).suffix], body)
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
