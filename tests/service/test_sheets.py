"""Exports: what each format writes is read back by a reader of its own."""

from __future__ import annotations

import csv
import html
import io
import math
from typing import Any

import pytest
from factories import Bench
from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from service.conftest import Api, study
from sqlalchemy import update
from tunesmith_service import sheet_files, sheets, store, study_report, tables, trial_store
from tunesmith_service.db import writing
from tunesmith_service.errors import Unprocessable
from tunesmith_studies.space import Space

COLUMNS = [
    sheets.Column("number", "number", is_number=True, home="trial"),
    sheets.Column("value", "val/loss", is_number=True, home="trial"),
    sheets.Column("opt", "opt", is_number=False, home="params"),
]
LONG = "a category of sixty characters, with a comma, and 60 of them"
ROWS: list[list[sheets.Cell]] = [
    [0, 0.1, "adam"],
    [1, 1e-12, "=HYPERLINK(1)"],
    [2, math.inf, 'a "quoted", text\nof two lines'],
    [3, math.nan, None],
    [4, 0.0, LONG],
    [5, None, "50% of a_b & |c|"],
    [6, -1 / 3, "-"],
]


def written(format: str, rows: list[list[sheets.Cell]] = ROWS) -> bytes:
    writer = sheet_files.WRITERS[format](COLUMNS)
    half = len(rows) // 2
    return writer.begin() + writer.rows(rows[:half]) + writer.rows(rows[half:]) + writer.end()


def test_csv_holds_every_digit_and_nothing_that_a_spreadsheet_would_run() -> None:
    head, *rows = csv.reader(io.StringIO(written("csv").decode(), newline=""))
    assert head == ["number", "val/loss", "opt"]
    assert [float(r[1]) if r[1] else None for r in rows[:3]] == [0.1, 1e-12, math.inf]
    assert (rows[3][1:], rows[5][1], float(rows[6][1])) == (["NaN", ""], "", -1 / 3)
    assert [r[2] for r in rows] == [
        "adam", "'=HYPERLINK(1)", 'a "quoted", text\nof two lines', "", LONG, "50% of a_b & |c|", "'-",
    ]  # fmt: skip
    assert all(line.endswith(b"\r\n") for line in written("csv", ROWS[:2]).splitlines(keepends=True))


@given(st.text(max_size=20), st.floats(allow_nan=False))
def test_csv_gives_back_whatever_was_put_in(text: str, size: float) -> None:
    _, (number, value, word) = csv.reader(io.StringIO(written("csv", [[1, size, text]]).decode(), newline=""))
    assert (number, float(value), word.removeprefix("'")) == ("1", size, text.removeprefix("'"))
    assert not word.startswith(("=", "+", "-", "@", "\t", "\r"))


def test_parquet_holds_numbers_as_numbers_and_what_is_missing_as_null() -> None:
    pq = pytest.importorskip("pyarrow.parquet")
    table = pq.read_table(io.BytesIO(written("parquet")))
    assert [str(f.type) for f in table.schema] == ["int64", "double", "string"]
    found = table.to_pydict()
    assert found["number"] == list(range(7))
    assert math.isnan(found["val/loss"].pop(3))
    assert found["val/loss"] == [0.1, 1e-12, math.inf, 0.0, None, -1 / 3]
    assert found["opt"] == [row[2] for row in ROWS]
    assert pq.read_table(io.BytesIO(written("parquet", []))).num_rows == 0


def test_markdown_lines_up_and_nothing_in_it_is_markup() -> None:
    lines = written("markdown").decode().splitlines()
    assert len({len(line) for line in lines}) == 1
    assert lines[1].replace("-", "") == "| : | : |  |"
    assert "0.1000" in lines[2]
    assert r"50% of a\_b & \|c\|" in lines[7]


READER = MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"])


@given(st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=20))
def test_a_cell_of_markdown_reads_as_it_was_written(text: str) -> None:
    """Whatever it holds: the export's cells, and a report's."""
    rows = [written("markdown", [[1, 0.5, text]]), f"|a|\n|-|\n| x{study_report.cell(text)} |\n".encode()]
    shown = [READER.render(row.decode()).rpartition("<td")[2].partition("</td>")[0] for row in rows]
    texts = [html.unescape(cell.partition(">")[2]) for cell in shown]
    assert texts == [" ".join(text.split()), f"x{' '.join(text.split())}"]


@pytest.mark.parametrize("text", ["&lt;i&gt;", "&#60;i>", "a&colon;b", "AT&T;", "~~a~~", "a & b"])
def test_nothing_in_markdown_stands_for_another_character(text: str) -> None:
    test_a_cell_of_markdown_reads_as_it_was_written.hypothesis.inner_test(text)


def test_latex_is_a_booktabs_table_with_everything_escaped() -> None:
    text = written("latex").decode()
    assert text.startswith("\\begin{tabular}{rrl}\n\\toprule\nnumber &")
    assert text.endswith("\\bottomrule\n\\end{tabular}\n")
    assert r"50\% of a\_b \& \textbar{}c\textbar{}" in text
    assert r"$1.000\times10^{-12}$" in text
    assert r"$-0.3333$" in text
    assert r"$\infty$" in text
    assert text.count("\\\\\n") == 1 + len(ROWS)


# --- from trials ----------------------------------------------------------------------------------


@pytest.fixture
def made(bench: Bench) -> int:
    """Three trials: complete with 0.5, diverged, waiting; `width` is a choice of words that are numbers."""
    space = {"lr": {"low": 0.0, "high": 1.0}, "width": ["8", "16", "128"], LONG: [True, False]}
    study = bench.study(space=Space.model_validate(space).model_dump(mode="json"))
    slot = bench.register()[0]
    for n, width in enumerate(("16", "128", "8")):
        bench.trial(study, params={"lr": [0.1, 0.0, 1e-12][n], "width": width, LONG: True})
        if n < 2:
            grant = bench.claim(slot)
            bench.report(grant, 1, [0.5, math.inf][n])
            bench.finish(grant, *[("complete", "budget"), ("pruned", "diverged")][n])
    return study


def row_of(conn: Any, study: int) -> store.Study:
    found = store.find_study(conn, 1, str(study))
    assert found is not None
    return found


def test_a_sheet_has_what_trials_have(bench: Bench, made: int) -> None:
    with bench.engine.connect() as conn:
        row = row_of(conn, made)
        sheet = sheets.Sheet(conn, row)
        trials = trial_store.trials(conn, row)
        names = [c.name for c in sheet.usual()]
        assert names == [
            "number", "state", "stage", "value", "lr", "width", LONG, "step", "duration", "reason",
        ]  # fmt: skip
        columns = sheet.chosen(sheets.write_names(["val/loss", "number", LONG, "width", "lr"]))
        cells = [sheet.row(t, columns) for t in trials]
    assert cells == [
        [0.5, 0, "true", "16", 0.1],
        [None, 1, "true", "128", 0.0],
        [None, 2, "true", "8", 1e-12],
    ]


def test_words_that_are_numbers_are_sorted_by_size(bench: Bench, made: int) -> None:
    with bench.engine.connect() as conn:
        row = row_of(conn, made)
        assert trial_store.numbers(conn, row, sort="width") == [2, 0, 1]
        assert trial_store.numbers(conn, row, sort="-width", filter="-state:waiting") == [1, 0]
        assert trial_store.numbers(conn, row, sort="lr") == [1, 2, 0]


def test_what_is_not_finite_is_a_number_in_its_cell(bench: Bench, made: int) -> None:
    with writing(bench.engine).begin() as conn:
        odd = {"train/loss": "Infinity", "train/acc": "NaN"}
        conn.execute(update(tables.trials).where(tables.trials.c.number == 1).values(last_metrics=odd))
    with bench.engine.connect() as conn:
        row = row_of(conn, made)
        sheet = sheets.Sheet(conn, row)
        (trial,) = trial_store.numbered(conn, made, [1])
        infinite, nan = sheet.row(trial, sheet.chosen("train/loss,train/acc"))
    assert infinite == math.inf
    assert isinstance(nan, float)
    assert math.isnan(nan)


def test_a_column_that_there_is_not_is_refused_by_name(bench: Bench, made: int) -> None:
    with bench.engine.connect() as conn, pytest.raises(Unprocessable) as refused:
        sheets.Sheet(conn, row_of(conn, made)).chosen("lr,rl")
    assert "there is no column 'rl'; there are number, state, stage, value" in refused.value.detail


def test_an_export_is_what_the_filter_picks_in_its_order(play_on_each: Any, monkeypatch: Any) -> None:
    monkeypatch.setattr("tunesmith_service.api.exports.CHUNK", 2)

    async def scene(api: Api) -> None:
        await api.post("/studies", json=study("my study"))
        await api.enqueue("my study", 5)
        query = {"filter": "lr>=0.002 lr<0.005", "sort": "-lr", "columns": "number,lr,value"}
        answer = await api.get("/studies/my study/trials/export", params=query)
        assert answer.text == "number,lr,val/loss\r\n3,0.004,\r\n2,0.003,\r\n1,0.002,\r\n"
        assert answer.headers["content-disposition"] == 'attachment; filename="my-study-trials.csv"'
        listed = (await api.get("/studies/my study/trials", params=query | {"columns": None})).json()
        assert [t["number"] for t in listed["items"]] == [3, 2, 1]
        for wrong in ({"filter": "lrr>1"}, {"columns": "x"}, {"sort": "x"}, {"format": "xlsx"}):
            refused = await api.get("/studies/my study/trials/export", params=wrong)
            assert refused.status_code == 422, wrong

    play_on_each(scene)
