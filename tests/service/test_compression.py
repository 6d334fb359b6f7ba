"""Answers go out small, streams at once, and a compressed page tells nothing of its secret."""

from __future__ import annotations

import asyncio
import gzip
from typing import Any

import pytest
from starlette.responses import Response, StreamingResponse
from tunesmith_service.compression import Compression
from tunesmith_service.security import masked, unmasked


def answered(response: Response, offers: str = "gzip, deflate") -> tuple[dict[str, str], list[bytes]]:
    """What a browser with these offers gets: headers, and the pieces of the body."""
    sent: list[Any] = []

    async def ask() -> None:
        async def receive() -> Any:
            return {"type": "http.request", "body": b"", "more_body": False}

        async def send(message: Any) -> None:
            sent.append(message)

        scope = {"type": "http", "method": "GET", "headers": [(b"accept-encoding", offers.encode())]}
        await Compression(response)(scope, receive, send)

    asyncio.run(ask())
    headers = {k.decode(): v.decode() for k, v in sent[0]["headers"]}
    return headers, [m["body"] for m in sent[1:] if m["body"]]


def test_a_page_is_sent_gzipped_with_its_new_length():
    page = b"<p>lr 0.01</p>" * 500
    headers, (body,) = answered(Response(page, media_type="text/html"))
    assert headers["content-encoding"] == "gzip"
    assert headers["vary"] == "Accept-Encoding"
    assert int(headers["content-length"]) == len(body) < len(page) / 10
    assert gzip.decompress(body) == page


@pytest.mark.parametrize(
    ("response", "offers"),
    [
        (Response(b"x" * 5000, media_type="text/html"), "br"),
        (Response(b"x" * 5000, media_type="application/octet-stream"), "gzip"),
        (Response(b"x" * 500, media_type="text/html"), "gzip"),
        (Response(b"x" * 5000, media_type="text/css", headers={"Content-Encoding": "gzip"}), "gzip"),
    ],
    ids=["nobody asked", "bytes", "short", "compressed already"],
)
def test_other_answers_stay_as_they_are(response: Response, offers: str):
    _, (body,) = answered(response, offers)
    assert body == response.body


def test_a_stream_of_events_says_that_it_is_open_before_its_first_event():
    seen: list[str] = []

    async def events() -> Any:
        yield "data: 1\n\n"

    async def ask() -> None:
        async def receive() -> Any:
            await asyncio.Event().wait()

        async def send(message: Any) -> None:
            seen.append(message["type"])

        scope = {"type": "http", "method": "GET", "headers": [(b"accept-encoding", b"gzip")]}
        response = StreamingResponse(events(), media_type="text/event-stream")
        started = {"type": "http.response.start", "status": 200, "headers": response.raw_headers}

        async def app(*_: Any) -> None:
            await _[2](started)
            seen.append("then waits")

        await Compression(app)(scope, receive, send)

    asyncio.run(ask())
    assert seen == ["http.response.start", "then waits"]


def test_a_secret_looks_another_each_time_and_is_the_same_behind_its_mask():
    secret = "00ff" * 8
    texts = {masked(secret) for _ in range(50)}
    assert len(texts) == 50
    assert not any(secret in text for text in texts)
    assert {unmasked(text) for text in texts} == {secret}


@pytest.mark.parametrize("sent", ["", "x", "00ff" * 8, "0" * 63])
def test_what_is_no_masked_secret_is_nobodys(sent: str):
    assert unmasked(sent) != "00ff" * 8
