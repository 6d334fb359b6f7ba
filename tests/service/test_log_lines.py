"""Lines that are put together here are those of structlog's own renderer."""

from __future__ import annotations

from typing import Any

import pytest
import structlog
from tunesmith_service.logs import _Text

HEAD = {"timestamp": "2026-11-30T07:00:00.000000Z", "level": "info", "event": "trial.claimed"}


@pytest.mark.parametrize(
    "told",
    [
        {},
        {"trial": 4, "study": "digits-demo", "attempt": 1},
        {"reason": "it has blanks", "quoted": 'a"b', "assigned": "a=b", "lines": "a\nb"},
        {"nothing": None, "many": [1, "x"], "share": 0.5, "empty": ""},
        {"event": "a sentence that is longer than thirty letters", "level": "warning"},
    ],
)
def test_a_line_is_structlog_s(told: dict[str, Any]) -> None:
    full = structlog.dev.ConsoleRenderer(colors=False)
    event = {**HEAD, **told}
    assert _Text(coloured=False)(None, "info", dict(event)) == full(None, "info", dict(event))
