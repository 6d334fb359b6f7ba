"""The words that pick trials: read, shown, refused, and what they pick on both databases."""

from __future__ import annotations

import contextlib
import math
from typing import Any

import pytest
from factories import Bench
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import update
from tunesmith_service import store, tables, trial_filter, trial_store
from tunesmith_service.db import writing
from tunesmith_service.errors import Unprocessable
from tunesmith_service.filters import All, AnyOf, Misread, Not, Term, parse, show
from tunesmith_studies.space import Space

NAMES = st.sampled_from(["lr", "val/loss", "state", "a b", "x-y", "größe"])
WORDS = st.text(min_size=0, max_size=8)
NUMBERS = st.floats(allow_nan=False, allow_infinity=False).map(lambda v: f"{v:g}")
COMPARED = st.builds(Term, NAMES, st.sampled_from(["!=", "<", "<=", ">", ">=", "~"]), st.tuples(WORDS))
LISTED = st.builds(Term, NAMES, st.just(":"), st.lists(WORDS, min_size=1, max_size=3).map(tuple))
RANGES = st.builds(
    Term, NAMES, st.just(":"), st.tuples(NUMBERS | st.just(""), NUMBERS | st.just("")), st.just(True)
)
TERMS = COMPARED | LISTED | RANGES
FILTERS = st.recursive(
    TERMS,
    lambda inner: (
        st.builds(Not, inner)
        | st.lists(inner, min_size=2, max_size=3).map(lambda p: All(tuple(p)))
        | st.lists(inner, min_size=2, max_size=3).map(lambda p: AnyOf(tuple(p)))
    ),
    max_leaves=8,
)


def bare(found: Any) -> Any:
    """Without the places where terms stand."""
    match found:
        case Term():
            return (found.name, found.sign, found.values, found.is_range)
        case Not():
            return ("not", bare(found.what))
        case All() | AnyOf():
            return (type(found).__name__, [bare(p) for p in found.parts])


@given(FILTERS)
def test_what_is_shown_is_read_as_the_same(found: Any) -> None:
    assert bare(parse(show(found))) == bare(found)


@given(
    st.text(max_size=60) | st.lists(st.sampled_from([*'()":=<>~-. ,', "OR", "NOT", "lr", "1"])).map("".join)
)
def test_whatever_is_typed_is_a_filter_or_a_sentence_about_it(text: str) -> None:
    with contextlib.suppress(Misread):  # anything else is a fault
        parse(show(parse(text)))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("lr", "at character 1: 'lr' is no term; write a name, a sign and a value: lr>=1e-3"),
        ("state:complete lr>=", "at character 20: lr>= needs a value"),
        ("(lr:1", "at character 6: a parenthesis is not closed"),
        ("lr:1)", "at character 5: a closing parenthesis that nothing opened"),
        ("lr:1 OR", "at character 8: OR needs a term on either side"),
        ("(" * 30 + "lr:1", "it is nested deeper than 20 times"),
        ("x:" + "y" * 2000, "it is longer than 2000 characters"),
    ],
)
def test_a_filter_that_cannot_be_read_says_where_and_why(text: str, said: str) -> None:
    with pytest.raises(Misread) as refused:
        parse(text)
    assert said in refused.value.detail


# --- what is picked -------------------------------------------------------------------------------

TRIALS: list[dict[str, Any]] = [
    {"lr": 0.1, "opt": "adam", "on": True},
    {"lr": 0.01, "opt": "sgd", "on": False},
    {"lr": 0.0, "opt": "a very long choice"},
    {"lr": 1e-12, "opt": "sgd"},
]


@pytest.fixture
def study(bench: Bench) -> int:
    """Trials of `TRIALS`: complete with 0.5, complete with 0.3, diverged with a NaN, waiting."""
    space = {
        "lr": {"low": 0.0, "high": 1.0},
        "opt": ["adam", "sgd", "a very long choice"],
        "on": [True, False],
    }
    made = bench.study(space=Space.model_validate(space).model_dump(mode="json"))
    slot = bench.register()[0]
    for n, params in enumerate(TRIALS):
        bench.trial(made, params=params)
        if n == 3:
            break
        grant = bench.claim(slot)
        bench.report(grant, 1, [0.5, 0.3, math.nan][n])
        ending = ("pruned", "diverged") if n == 2 else ("complete", "budget")
        bench.finish(grant, *ending)
    return made


@pytest.mark.parametrize(
    ("text", "numbers"),
    [
        ("", [0, 1, 2, 3]),
        ("state:complete", [0, 1]),
        ("state:complete,waiting", [0, 1, 3]),
        ("-state:complete", [2, 3]),
        ("lr:0.1", [0]),
        ("lr:0", [2]),
        ("lr:1e-12", [3]),
        ("lr>=0.01 lr<0.1", [1]),
        ("lr:0.01..0.1", [0, 1]),
        ("lr:..1e-9", [2, 3]),
        ("lr!=0.1", [1, 2, 3]),
        ("value<0.4", [1]),
        ("val/loss<0.4", [1]),
        ("val_loss:..", [0, 1]),
        ("NOT val_loss<0.4", [0, 2, 3]),
        ("opt:sgd", [1, 3]),
        ('opt:"a very long choice"', [2]),
        ('opt~"^a"', [0, 2]),
        ('opt~"^(s|g)+d$"', [1, 3]),
        ("on:true", [0]),
        ("on!=true", [1, 2, 3]),
        ("opt:adam OR opt:sgd state:waiting", [0, 3]),
        ("(opt:adam OR opt:sgd) state:waiting", [3]),
        ("number:1..2", [1, 2]),
        ("reason:diverged", [2]),
        ("duration<2h", [0, 1, 2]),
        ("stage:random kind:train hand:false", [0, 1, 2, 3]),
        ("stage:nothing", []),
    ],
)
def test_a_filter_picks(bench: Bench, study: int, text: str, numbers: list[int]) -> None:
    with bench.engine.connect() as conn:
        row = store.find_study(conn, 1, str(study))
        assert row is not None
        assert sorted(trial_filter.matching(conn, row, text)) == numbers
        assert trial_filter.count(conn, row, text) == len(numbers)
        assert [t.number for t in trial_store.trials(conn, row, filter=text)] == numbers


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("state:complete lrr>1", "at character 16: this study has nothing named 'lrr'; did you mean lr?"),
        ("lr>fast", "lr is compared with a number, got 'fast'"),
        ("duration>fast", "duration is compared with a number, with s, min or h behind it, got 'fast'"),
        ("opt>1", "opt is a text; > compares numbers"),
        ("opt:a..b", "opt is a text and has no ranges; list its values: a,b"),
        ('opt~"(?=a)"', "is no pattern to match: groups that begin with (? are not known here"),
        ('opt~"["', "is no pattern to match"),
    ],
)
def test_a_filter_that_means_nothing_here_says_why(bench: Bench, study: int, text: str, said: str) -> None:
    with bench.engine.connect() as conn:
        row = store.find_study(conn, 1, str(study))
        assert row is not None
        with pytest.raises(Unprocessable) as refused:
            trial_filter.matching(conn, row, text)
    assert said in refused.value.detail


@pytest.mark.parametrize("sort", ["lr", "-lr", "value", "-val_loss", "opt", "-number", "stage"])
def test_pages_of_any_order_lose_and_double_nothing(bench: Bench, study: int, sort: str) -> None:
    with bench.engine.connect() as conn:
        row = store.find_study(conn, 1, str(study))
        assert row is not None
        whole = [t.number for t in trial_store.trials(conn, row, sort=sort)]
        seen: list[int] = []
        while page := trial_store.trials(conn, row, sort=sort, after=seen[-1] if seen else None, limit=1):
            seen += [t.number for t in page]
    assert seen == whole
    assert sorted(whole) == [0, 1, 2, 3]  # those without one come last
    if "val" in sort:
        assert whole[2:] == [2, 3]


@pytest.mark.parametrize(
    ("text", "numbers"),
    [
        ("tag:good", [1, 2]),
        ("tag:old,odd", [2]),
        ('tag~"^o"', [2]),
        ("tag!=good", [0, 3]),
        ("-tag:old", [0, 1, 3]),
    ],
)
def test_a_trial_is_picked_by_any_of_its_tags(
    bench: Bench, study: int, text: str, numbers: list[int]
) -> None:
    t = tables.trials
    with writing(bench.engine).begin() as conn:
        for number, tags in ((0, []), (1, ["good"]), (2, ["good", "old"])):
            conn.execute(update(t).where(t.c.number == number).values(tags=tags))
        row = store.find_study(conn, 1, str(study))
        assert row is not None
        assert sorted(trial_filter.matching(conn, row, text)) == numbers
        assert [t.number for t in trial_store.trials(conn, row, filter=text, sort="tag")]


def test_a_metric_that_was_stored_as_a_word_is_no_number(bench: Bench, study: int) -> None:
    with writing(bench.engine).begin() as conn:
        t = tables.trials
        conn.execute(update(t).where(t.c.number == 3).values(last_metrics={"train/loss": "Infinity"}))
        row = store.find_study(conn, 1, str(study))
        assert row is not None
        assert trial_filter.matching(conn, row, "train_loss>0") == []
