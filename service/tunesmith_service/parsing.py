"""Reading a request's body: JSON that cannot hurt us, or bytes as a stream.

Refused while they come: bodies too long or too slow. Refused before anything else looks at them: the
tokens NaN and Infinity, numbers that overflow to infinity, integers that JavaScript and SQL's JSON
would round, nesting deeper than anything of ours, NUL and lone surrogates (PostgreSQL stores neither).
"""

from __future__ import annotations

import asyncio
import json
import math
import re
from collections.abc import AsyncIterator, Iterator
from typing import Any, NoReturn

from starlette.requests import Request

from tunesmith_service.errors import Refused, TooLarge, TooSlow, Unprocessable

MAX_DEPTH = 16
MAX_INT = 2**53

_STRINGS = re.compile(rb'"(?:[^"\\]|\\.)*"', re.DOTALL)
_NOT_BRACKETS = bytes(b for b in range(256) if b not in b"[]{}")


def _no_constant(token: str) -> NoReturn:
    raise Unprocessable(
        f'the body holds the token {token}, which is not JSON; write the string "{token}" in quotes'
    )


def _float(text: str) -> float:
    value = float(text)
    if math.isinf(value):
        raise Unprocessable(f"the body holds {text[:40]}, which is too large for a 64-bit float")
    return value


def _int(text: str) -> int:
    if len(text) > 17 or abs(value := int(text)) > MAX_INT:
        raise Unprocessable(f"the body holds the integer {text[:40]}, beyond 2^53 = {MAX_INT}")
    return value


_decoder = json.JSONDecoder(parse_constant=_no_constant, parse_float=_float, parse_int=_int)


def parse_json(body: bytes, *, free_text: bool = False, most_depth: int = MAX_DEPTH) -> Any:
    """The value that a JSON text stands for.

    Args:
        free_text: NUL may stand in strings, which then must not reach the database (log lines).
    Raises: Unprocessable, with the place if the text is not JSON.
    """
    if body.count(b"[") + body.count(b"{") > most_depth and (depth := _depth(body)) > most_depth:
        raise Unprocessable(f"the body is nested {depth} deep; at most {most_depth} is read")
    try:
        value = _decoder.decode(body.decode("utf-8"))
    except UnicodeDecodeError as e:
        raise Unprocessable(f"the body is not UTF-8: {e.reason} at byte {e.start}") from e
    except json.JSONDecodeError as e:
        raise Unprocessable(f"the body is not JSON: {e.msg} at line {e.lineno}, column {e.colno}") from e
    if b"\\u" in body:  # raw control characters and surrogates never get past the decoders above
        _check_text(value, free_text=free_text)
    return value


def as_sent(data: Any) -> Any:
    """Plain data as if it had come as a body. Raises as `parse_json` does."""
    return parse_json(json.dumps(data).encode())


def whole_number(text: str) -> int | None:
    """An id or a number that somebody wrote; None where it is none, or longer than any of ours.

    >>> whole_number("12"), whole_number("-1"), whole_number("²"), whole_number("")
    (12, None, None, None)
    """
    return int(text) if text.isascii() and text.isdecimal() and len(text) < 16 else None


def _depth(body: bytes) -> int:
    """Deepest nesting, found without parsing: the parser itself would recurse."""
    depth = deepest = 0
    for bracket in _STRINGS.sub(b"", body).translate(None, _NOT_BRACKETS):
        depth += 1 if bracket in b"[{" else -1
        deepest = max(deepest, depth)
    return deepest


def _check_text(value: Any, *, free_text: bool) -> None:
    for text in _strings(value):
        if "\x00" in text and not free_text:
            raise Unprocessable("the body holds the character NUL (\\u0000), which cannot be stored")
        try:
            text.encode()
        except UnicodeEncodeError:
            raise Unprocessable("the body holds half of a surrogate pair (\\ud800 to \\udfff)") from None


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, list):
        for item in value:
            yield from _strings(item)
    elif isinstance(value, dict):
        for key, item in value.items():
            yield key
            yield from _strings(item)


async def read_stream(request: Request, *, limit: int, idle_seconds: float) -> AsyncIterator[bytes]:
    """A request's body in pieces, cut off when it is too long or nothing comes for `idle_seconds`."""
    _refuse_coded(request)
    _refuse_declared(request, limit)
    total = 0
    pieces = request.stream()
    try:
        while True:
            try:
                async with asyncio.timeout(idle_seconds):
                    piece = await anext(pieces)
            except StopAsyncIteration:
                return
            except TimeoutError:
                raise TooSlow(f"no byte of the body came for {idle_seconds:g} s; send it again") from None
            total += len(piece)
            if total > limit:
                raise TooLarge(f"the body is longer than {limit} bytes")
            yield piece
    finally:
        await pieces.aclose()


async def read_body(request: Request, *, limit: int, seconds: float) -> bytes:
    """A request's whole body, at most `limit` bytes, all come within `seconds`.

    Raises: TooLarge, TooSlow, Refused if the client went away.
    """
    _refuse_coded(request)
    _refuse_declared(request, limit)
    body, more = b"", True
    try:
        async with asyncio.timeout(seconds):
            while more:
                message = await request.receive()
                if message["type"] == "http.disconnect":
                    raise Refused("the connection closed before the whole body had come")
                body += message.get("body", b"")
                more = message.get("more_body", False)
                if len(body) > limit:
                    raise TooLarge(f"the body is longer than {limit} bytes")
    except TimeoutError:
        raise TooSlow(f"the body did not come within {seconds:g} s; send it again") from None
    return body


def _refuse_coded(request: Request) -> None:
    coding = request.headers.get("content-encoding", "identity")
    if coding.lower() != "identity":
        raise Refused(f"Content-Encoding: {coding[:40]} is not read; send the body as it is")


def _refuse_declared(request: Request, limit: int) -> None:
    declared = request.headers.get("content-length", "")
    if declared.isdecimal() and int(declared[:20]) > limit:
        raise TooLarge(f"the body is {declared[:20]} bytes long; at most {limit} are read")
