"""Regular expressions that take no time to speak of: they find what Python's own find."""

from __future__ import annotations

import contextlib
import re

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from tunesmith_service.patterns import Pattern, PatternError

ATOMS = st.sampled_from(
    ["a", "b", "1", ".", "[ab]", "[^a]", "[0-9_-]", r"\d", r"\W", r"\.", "^", "$", "[]x]"]
)
PATTERNS = st.recursive(
    ATOMS,
    lambda inner: (
        st.lists(inner, max_size=4).map("".join)
        | st.tuples(inner, inner).map(lambda two: f"({two[0]}|{two[1]})")
        | st.tuples(inner, st.sampled_from("*+?")).map(lambda two: f"({two[0]}){two[1]}")
    ),
    max_leaves=8,
)


NOT_YET = pytest.mark.filterwarnings("ignore:Possible (nested set|set ):FutureWarning")
"""Python says that it may read [[] otherwise some day, and reads it as we do."""


@NOT_YET
@given(PATTERNS, st.text("ab1.-_]x ", max_size=12))
def test_they_find_what_pythons_own_find(pattern: str, text: str) -> None:
    assert Pattern(pattern).found_in(text) == (re.search(pattern, text) is not None)


@NOT_YET
@given(st.text(r"ab()[]{}*+?|\^$.-", max_size=12))
@example("[[]")
@example("[|||]")
def test_whatever_is_typed_is_a_pattern_or_a_sentence_about_it(text: str) -> None:
    with contextlib.suppress(PatternError):  # anything else is a fault
        assert Pattern(text).found_in("ab") == (re.search(text, "ab") is not None)


@pytest.mark.parametrize("pattern", ["(a+)+$", "(a|a)*b", "a*a*a*a*a*b", "((a*)*)*b"])
def test_a_pattern_that_would_never_end_elsewhere_looks_at_each_character_once(pattern: str) -> None:
    counted = Pattern(pattern)
    looked = 0

    def count(state: object) -> None:
        nonlocal looked
        looked += 1

    for state in counted._states:
        if state.test is not None:
            plain = state.test
            state.test = lambda c, plain=plain: (count(c), plain(c))[1]  # type: ignore[misc]
    counted.found_in("a" * 500 + "c")
    assert looked <= 501 * len(counted._states)
