"""Reports of violations: two forms, hostile bodies, and no way to flood the log."""

from __future__ import annotations

import json
from typing import Any

import httpx
import pytest
import structlog
from tunesmith_service.violations import LINES_A_MINUTE, Violations, reports_in, said

from .conftest import Api

OLD = {
    "csp-report": {
        "document-uri": "http://127.0.0.1/ui/studies/5?filter=secret",
        "violated-directive": "script-src-elem",
        "effective-directive": "script-src-elem",
        "original-policy": "default-src 'self'",
        "blocked-uri": "inline",
        "source-file": "http://127.0.0.1/ui/static/app.js?x",
        "line-number": 7,
    }
}
NEW = [
    {
        "age": 3,
        "type": "csp-violation",
        "url": "http://127.0.0.1/ui/studies/5",
        "user_agent": "x",
        "body": {
            "documentURL": "http://127.0.0.1/ui/studies/5?filter=secret",
            "effectiveDirective": "script-src-elem",
            "blockedURL": "inline",
            "sourceFile": "http://127.0.0.1/ui/static/app.js?x",
            "lineNumber": 7,
        },
    },
    {"type": "deprecation", "body": {}},
]
SAID = {
    "directive": "script-src-elem",
    "blocked": "inline",
    "page": "http://127.0.0.1/ui/studies/5",
    "source": "http://127.0.0.1/ui/static/app.js",
    "line": "7",
}
OLD_KIND, NEW_KIND = "application/csp-report", "application/reports+json"


async def send(api: Api, body: Any, kind: str = OLD_KIND, **headers: str) -> httpx.Response:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    sent = {"Content-Type": kind} | headers
    return await api.post("/csp-reports", base="", token="", headers=sent, content=content)


@pytest.mark.parametrize(("body", "kind"), [(OLD, OLD_KIND), (NEW, NEW_KIND)])
def test_either_form_is_one_line_and_counts_one(play, body: Any, kind: str):
    async def scene(api: Api) -> None:
        with structlog.testing.capture_logs() as lines:
            answer = await send(api, body, kind)
        assert (answer.status_code, answer.content) == (204, b"")
        (line,) = [x for x in lines if x["event"] == "csp.violation"]
        assert {k: v for k, v in line.items() if k in SAID} == SAID
        assert (line["told"], line["unlogged"], line["log_level"]) == (1, 0, "warning")
        assert "secret" not in str(line)  # what stands in a query may be private
        assert api.service.violations.told == 1

    play(scene)


@pytest.mark.parametrize(
    ("body", "kind", "status"),
    [
        (b"", OLD_KIND, 422),
        (b"not json", OLD_KIND, 422),
        (b'{"csp-report": NaN}', OLD_KIND, 422),
        (b"\xff\xfe", OLD_KIND, 422),
        (b"[" * 30_000, NEW_KIND, 422),
        (b'{"a":' * 5000 + b"1" + b"}" * 5000, OLD_KIND, 422),
        (b" " * 32_769, OLD_KIND, 413),
        (b"{}", "text/html", 422),
        (b"{}", "application/json", 422),
        (b"{}", OLD_KIND, 204),
        (b"7", OLD_KIND, 204),
        (b'{"csp-report": [1]}', OLD_KIND, 204),
        (b'[{"type": "csp-violation"}, {"type": "csp-violation", "body": 7}, null]', NEW_KIND, 204),
    ],
)  # fmt: skip
def test_a_hostile_body_is_answered_cleanly_and_no_line(play, body: bytes, kind: str, status: int):
    async def scene(api: Api) -> None:
        with structlog.testing.capture_logs() as lines:
            assert (await send(api, body, kind)).status_code == status
        assert not [x for x in lines if x["event"] in ("csp.violation", "request.failed")]

    play(scene)


def test_a_body_that_is_coded_or_says_that_it_is_long_is_not_read(play):
    async def scene(api: Api) -> None:
        assert (await send(api, b"x", **{"Content-Encoding": "gzip"})).status_code == 400
        assert (await send(api, b"x", **{"Content-Length": "99999999"})).status_code == 413

    play(scene)


def test_one_address_may_send_twenty_and_then_waits(play):
    async def scene(api: Api) -> None:
        api.service.report_bodies._monotonic = lambda: 0.0
        answers = [await send(api, OLD) for _ in range(25)]
        assert [a.status_code for a in answers] == [204] * 20 + [429] * 5
        assert answers[-1].headers["retry-after"] == "3"

    play(scene)


def test_however_many_are_told_ten_lines_a_minute_are_written_and_all_are_counted():
    now = [100.0]
    violations = Violations(monotonic=lambda: now[0])
    report = reports_in(OLD)
    with structlog.testing.capture_logs() as lines:
        for _ in range(10_000):
            violations.tell(report)
        assert len(lines) == LINES_A_MINUTE
        now[0] += 60
        violations.tell(report)
    assert len(lines) == LINES_A_MINUTE + 1
    assert lines[-1]["told"] == 10_001
    assert lines[-1]["unlogged"] == 10_000 - LINES_A_MINUTE


def test_a_body_of_many_reports_counts_for_twenty_at_most():
    assert len(reports_in([NEW[0]] * 500)) == 20


@pytest.mark.parametrize(
    "hostile",
    ["\x1b[2J\x1b[31mowned", "line\nfake.event level=error", "\u202egnp.exe", "x" * 100_000, "\x00", "ü",
     "http://[::1", "javascript:alert(1)?token=tsm_1"],
)  # fmt: skip
def test_what_is_logged_is_short_and_printable_whatever_is_sent(hostile: str):
    fields = said(
        {"blocked-uri": hostile, "effective-directive": hostile, "line-number": hostile, "x": hostile}
    )
    assert set(fields) == {"blocked", "directive", "line"}
    for text in fields.values():
        assert len(text) <= 120
        assert all(" " <= c <= "~" for c in text)
        assert "tsm_" not in text


@pytest.mark.parametrize("value", [None, [], {}, True, [["x"]]])
def test_a_field_that_is_no_text_is_left_out_or_plain(value: Any):
    assert said({"blocked-uri": value}) in ({}, {"blocked": "True"})
