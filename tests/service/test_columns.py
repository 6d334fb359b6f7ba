"""Columns brought up to date are those read anew."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from factories import Bench
from sqlalchemy import Connection
from tunesmith_service import column_files, columns, store, trial_filter
from tunesmith_service.column_cache import ColumnCache
from tunesmith_service.column_files import ColumnFiles
from tunesmith_service.errors import Unprocessable


def same(a: columns.Columns, b: columns.Columns) -> bool:
    def equal(x: Any, y: Any) -> bool:
        if isinstance(x, np.ndarray):
            return bool(np.array_equal(x, y, equal_nan=x.dtype.kind == "f"))
        if isinstance(x, columns.Words):
            return equal(
                [x.labels[i] if i >= 0 else None for i in x.codes],
                [y.labels[i] if i >= 0 else None for i in y.codes],
            )
        if isinstance(x, dict):
            return x.keys() == y.keys() and all(equal(x[k], y[k]) for k in x)
        return bool(x == y)

    return all(equal(getattr(a, f.name), getattr(b, f.name)) for f in fields(columns.Columns))


@pytest.fixture
def cache(tmp_path: Path) -> ColumnCache:
    return ColumnCache(ColumnFiles(tmp_path, "here"))


def test_columns_follow_the_study_event_by_event(bench: Bench, cache: ColumnCache) -> None:
    study, slot = bench.study(), bench.register()[0]

    def look() -> columns.Columns:
        with bench.engine.connect() as conn:
            found = cache.get(conn, study)
            assert same(found, columns.read(conn, study))
        return found

    assert len(look()) == 0
    for n, loss in enumerate((0.5, 0.3)):
        bench.trial(study)
        assert look().is_state("waiting").tolist() == [False] * n + [True]
        grant = bench.claim(slot)
        assert look().is_state("running")[n]
        bench.report(grant, 1, loss)
        bench.finish(grant)
        assert np.array_equal(look().value, [0.5, 0.3][: n + 1])
    before = look()
    assert look() is before  # nothing has happened


def test_a_filter_is_asked_of_the_database_once_for_all_charts_of_a_page(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, cache: ColumnCache
) -> None:
    study, asked = bench.study(), []
    for _ in range(3):
        bench.trial(study)
    matching = trial_filter.matching

    def counted(conn: Connection, of: store.Study, text: str) -> list[int]:
        asked.append(text)
        return matching(conn, of, text)

    monkeypatch.setattr(trial_filter, "matching", counted)

    def picked(text: str) -> list[bool]:
        with bench.engine.connect() as conn:
            row = store.find_study(conn, None, str(study))
            assert row is not None
            return cache.picked(conn, row, cache.get(conn, study), text).tolist()

    monkeypatch.setattr("tunesmith_service.column_cache.FILTER_SECONDS", 3600.0)
    assert picked("number:1..2") == picked("number:1..2") == [False, True, True]
    assert picked("") == [True, True, True]
    assert asked == ["number:1..2"]
    bench.trial(study)  # something has happened
    assert picked("number:1..3") == [False, True, True, True]
    assert picked("number:1..2") == [False, True, True, False]
    with pytest.raises(Unprocessable):
        picked("no_such:1")
    monkeypatch.setattr(
        "tunesmith_service.column_cache.FILTER_SECONDS", -1.0
    )  # a tag may have been given by now
    asked.clear()
    assert picked("number:1..2") == [False, True, True, False]
    assert asked == ["number:1..2"]


def test_a_hyperparameter_that_is_a_word_in_some_trials_is_a_column_of_words() -> None:
    table = columns._Table(columns._NONE, 4)
    table.put_params(np.arange(3), [{"lr": 0.1, "k": 1}, {"lr": 0.2, "k": "auto"}, {"lr": 0.3}])
    table.put_params(np.array([3]), [{"lr": "auto", "k": 2}])  # lr was a number so far
    found = table.columns(1, ())
    assert found.numbers == {}
    assert [found.words[name].labels for name in ("lr", "k")] == [(0.1, 0.2, 0.3, "auto"), (1, "auto", 2)]
    assert found.words["lr"].codes.tolist() == [0, 1, 2, 3]
    assert found.words["k"].codes.tolist() == [0, 1, -1, 2]


def test_files_carry_columns_over_a_start_and_nothing_else_counts(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(column_files, "MOST_CHANGED", 1)
    study, slot = bench.study(), bench.register()[0]
    for params in ({"lr": 0.1, "optimizer": "adam"}, {"lr": 0.2, "nesterov": True}):
        bench.trial(study, params=params)
    grant = bench.claim(slot)
    born_us = bench.study_row(study).created_us

    def look(database: str = "here") -> columns.Columns:
        with bench.engine.connect() as conn:
            return ColumnCache(ColumnFiles(tmp_path, database)).get(conn, study)

    kept = look()
    assert same(ColumnFiles(tmp_path, "here").load(study, born_us) or columns._NONE, kept)
    for files, of, at in (
        (ColumnFiles(tmp_path, "restored"), study, born_us),
        (ColumnFiles(tmp_path, "here"), study, born_us + 1),
        (ColumnFiles(tmp_path, "here"), study + 1, born_us),
    ):
        assert files.load(of, at) is None
    bench.report(grant, 1, 0.5)
    bench.finish(grant)
    asked: list[Any] = []
    rows = columns._rows
    monkeypatch.setattr(columns, "_rows", lambda c, s, numbers: asked.append(numbers) or rows(c, s, numbers))
    assert look().value[0] == 0.5
    assert asked == [[0]]  # only what has changed since was read
    (file,) = tmp_path.glob("columns-*")
    whole = file.read_bytes()
    for broken in (b"", b"no archive", whole[: len(whole) // 2], whole[:-30] + b"x" * 30):
        file.write_bytes(broken)
        assert look().value[0] == 0.5
    assert asked[1:] == [None] * 4
    ColumnFiles(tmp_path, "here").forget(study)
    assert not list(tmp_path.iterdir())


def test_a_home_without_room_costs_no_chart(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(column_files, "MOST_CHANGED", 1)
    study = bench.study()
    bench.trial(study)
    (tmp_path / "a file").touch()
    with bench.engine.connect() as conn:
        assert len(ColumnCache(ColumnFiles(tmp_path / "a file", "here")).get(conn, study)) == 1
