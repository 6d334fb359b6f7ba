"""The body parser refuses what would hurt later, with a sentence."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tunesmith_service.errors import Unprocessable
from tunesmith_service.parsing import parse_json

REFUSED = {
    b'{"value": NaN}': 'the token NaN, which is not JSON; write the string "NaN" in quotes',
    b'{"value": -Infinity}': "the token -Infinity",
    b'{"value": 1e999}': "1e999, which is too large for a 64-bit float",
    b'{"value": 9007199254740993}': r"beyond 2\^53",
    b'{"value": -' + b"9" * 5000 + b"}": r"beyond 2\^53",
    b"[" * 17 + b"]" * 17: "nested 17 deep; at most 16",
    b"[" * 500_000: "nested 500000 deep",
    b'{"a": 1,}': "not JSON: .* at line 1, column 9",
    b"\xff": "not UTF-8",
    rb'{"name": "a\u0000b"}': "NUL",
    rb'{"name": "\ud800"}': "surrogate",
    rb'{"\udfff": 1}': "surrogate",
}


@pytest.mark.parametrize("body", REFUSED, ids=lambda b: b[:24].decode("ascii", "replace"))
def test_refuses(body):
    with pytest.raises(Unprocessable, match=REFUSED[body]):
        parse_json(body)


def test_reads_what_is_at_the_limits():
    assert parse_json(b"[" * 16 + b"]" * 16)
    assert parse_json(b'{"n": 9007199254740992, "x": 1.7976931348623157e308}')["n"] == 2**53
    assert parse_json(rb'"\ud83d\ude00"') == "😀"


def test_brackets_within_strings_are_no_nesting():
    assert parse_json(b'["' + b"[" * 100 + rb"\"{" + b'"]') == ["[" * 100 + '"{']


def test_log_lines_may_hold_nul():
    assert parse_json(rb'{"text": "a\u0000b"}', free_text=True) == {"text": "a\x00b"}


@given(st.binary(max_size=200))
def test_whatever_comes_is_read_or_refused(body):
    with contextlib.suppress(Unprocessable):
        parse_json(body)
