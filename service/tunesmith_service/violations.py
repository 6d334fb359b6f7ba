"""What browsers say was against the pages' policy: counted, and logged as one line each, within bounds.

Whoever reaches the server can send such reports, as many as they like and with anything in them. So their
texts are cut and cleaned, at most `LINES_A_MINUTE` become lines, and the next line says how many did not.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any
from urllib.parse import urlsplit

import structlog

from tunesmith_service.limits import Limiter

LINES_A_MINUTE = 10
MOST_IN_A_BODY = 20
"""Browsers gather reports for a minute or so, and send them as a list."""
CHARACTERS = 120

log = structlog.get_logger(__name__)

_NAMES = {
    "directive": ("effective-directive", "effectiveDirective", "violated-directive"),
    "blocked": ("blocked-uri", "blockedURL"),
    "page": ("document-uri", "documentURL"),
    "source": ("source-file", "sourceFile"),
    "line": ("line-number", "lineNumber"),
}
"""What is logged, and what it is called in either form of report."""


class Violations:
    """Args: monotonic: seconds."""

    def __init__(self, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._lines = Limiter(LINES_A_MINUTE, LINES_A_MINUTE, monotonic)
        self.told = 0
        self._unlogged = 0

    def tell(self, reports: Sequence[Mapping[str, Any]]) -> None:
        """Take note of reports of one body."""
        for report in reports:
            self.told += 1
            if self._lines.take(""):
                self._unlogged += 1
                continue
            log.warning("csp.violation", told=self.told, unlogged=self._unlogged, **said(report))
            self._unlogged = 0


def reports_in(value: Any) -> list[dict[str, Any]]:
    """The violations in a body: of report-uri an object with `csp-report`, of the Reporting API a list of
    objects with `type` and `body`. What is neither is left out.

    >>> reports_in({"csp-report": {"blocked-uri": "inline"}})
    [{'blocked-uri': 'inline'}]
    >>> reports_in([{"type": "csp-violation", "body": {"blockedURL": "eval"}}, {"type": "crash"}, 7])
    [{'blockedURL': 'eval'}]
    """
    if isinstance(value, dict):
        found = [value.get("csp-report")]
    elif isinstance(value, list):
        ours = [v for v in value if isinstance(v, dict) and v.get("type") == "csp-violation"]
        found = [v.get("body") for v in ours]
    else:
        found = []
    return [v for v in found if isinstance(v, dict)][:MOST_IN_A_BODY]


def said(report: Mapping[str, Any]) -> dict[str, str]:
    """A report's fields for a log line; addresses without their query, which may hold what is private."""
    fields: dict[str, str] = {}
    for name, theirs in _NAMES.items():
        value = next((report[t] for t in theirs if t in report), None)
        if isinstance(value, str | int | float):
            fields[name] = _plain(_address(value) if isinstance(value, str) else str(value))
    return fields


def _address(text: str) -> str:
    try:
        parts = urlsplit(text[:2000])
    except ValueError:
        return text
    return f"{parts.scheme}://{parts.netloc}{parts.path}" if parts.netloc else text.partition("?")[0]


def _plain(text: str) -> str:
    """Printable ASCII alone: nothing that a terminal would act on, or that reads from right to left."""
    return "".join(c if " " <= c <= "~" else "?" for c in text[:CHARACTERS])
