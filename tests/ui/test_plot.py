"""`tunesmith plot`: what the charts draw, in a terminal and as files that stand alone."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from tunesmith_service.__main__ import main
from tunesmith_service.cli.base import ExitCode
from tunesmith_service.drawing import plots, text
from tunesmith_service.drawing.figure import Bars, Box, Crosses, Dots, Figure, Line, Ring, Scale, Spot, steps
from ui.conftest import Dashboard
from ui.test_report import Elements

VIEWS = ("history", "curves", "map", "importance", "edf")


def run(dashboard: Dashboard, *args: str) -> Result:
    token = str(dashboard.home / "operator.token")
    command = ["plot", "cifar-mini-resnet", *args, "--url", dashboard.url, "--token-file", token]
    return CliRunner().invoke(main, command, env={"COLUMNS": "100", "LINES": "30"})


def figure() -> Figure:
    return Figure("t", Scale("epoch", 0, 10), Scale("loss", 0.0, 1.0))


def rows(found: Figure, *, coloured: bool = False) -> list[str]:
    """What stands right of the y axis, from the top."""
    drawn = text.text(found, 60, 14, coloured=coloured).splitlines()
    return [re.split("[│┤]", line, maxsplit=1)[1] for line in drawn if re.search("[│┤]", line)]


# --- as text ------------------------------------------------------------------------------------------


def test_a_line_goes_from_corner_to_corner_and_dots_stand_at_their_values() -> None:
    found = figure()
    found.add(Line([(0, 0.0), (10, 1.0)], "kind-0"), Dots([(10, 0.0)], "kind-1"))
    drawn = rows(found)
    assert (len(drawn), drawn[0][-1], drawn[-1][0], drawn[-1][-1]) == (10, "a", "a", "b")
    assert all(row.strip("b ").strip("a") == "" for row in drawn)
    columns = [row.index("a") for row in drawn]
    assert columns == sorted(columns, reverse=True)


def test_in_colour_dots_are_braille_and_what_is_outside_the_axes_is_left_out() -> None:
    found = figure()
    found.add(Dots([(0, 0.0), (50, 0.5), (5, -3.0)], "kind-0"))
    drawn = rows(found, coloured=True)
    assert [row for row in drawn if row] == ["\x1b[36m\u2840\x1b[0m"]
    assert not any(row for row in rows(Figure("t", found.x, found.y)))


def test_cells_are_shaded_by_their_heat_and_the_best_has_a_ring() -> None:
    found = figure()
    found.add(Box((0, 5, 0.5, 1.0), 15, "best"), Spot((10, 1.0), 0, "worst"), Crosses([(10, 0.0)]))
    found.add(Ring((0, 1.0)))
    drawn = rows(found)
    assert (drawn[0][0], drawn[0][1], drawn[0][-1], drawn[-1][-1]) == ("◎", "█", "░", "×")
    assert drawn[4].startswith("█" * 20)
    assert not drawn[5].strip()


def test_curves_are_lines_with_the_best_over_all_others_and_crosses_where_a_loss_was_lost() -> None:
    curve = {"split": "val", "at": [1, 2], "lost": [], "state": "complete"}
    view = {
        "metric": "val/loss", "range": [0.0, 1.0], "shown": 2, "band": None, "said": "Two.", "curves": [
            curve | {"number": 7, "rank": 0, "value": [0.9, 0.1]},
            curve | {"number": 8, "rank": None, "value": [0.9, 0.8], "lost": [3]},
        ],
    }  # fmt: skip
    plot = plots.curves(view)
    assert plot is not None
    assert isinstance(plot.drawing, Figure)
    assert [m.kind for m in plot.drawing.marks if isinstance(m, Line)] == ["soft", "kind-0"]
    assert Crosses([(3, 1.0)]) in plot.drawing.marks
    assert [key.text for key in plot.drawing.keys] == ["#7 0.1000"]


def test_a_step_holds_its_value_until_the_next() -> None:
    assert steps([(0, 3.0), (2, 1.0), (3, 0.0)]) == [(0, 3.0), (2, 3.0), (2, 1.0), (3, 1.0), (3, 0.0)]
    assert steps([]) == []


def test_bars_are_as_long_as_their_shares() -> None:
    bars = Bars("t", [("lr", 0.8), ("a very long name of a hyperparameter", 0.2)])
    drawn = text.text(bars, 82, 20, coloured=False)
    first, second = drawn.splitlines()
    assert first.count("█") == 4 * second.count("█")
    assert (first.split()[-1], second.split()[-1]) == ("80.0%", "20.0%")


# --- the command --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def loaded(dashboard: Dashboard) -> None:
    """What reckons importance is there: to load it may take longer than the command waits for an answer."""
    dashboard.api("GET", f"/studies/{dashboard.study}/views/importance", timeout=600)


@pytest.mark.usefixtures("loaded")
@pytest.mark.parametrize("view", VIEWS)
def test_a_view_is_drawn_in_the_terminal_within_its_width_and_without_colour_where_there_is_none(
    dashboard: Dashboard, view: str
) -> None:
    answer = run(dashboard, view)
    assert answer.exit_code == 0, answer.output
    drawn = answer.output.splitlines()
    figure = drawn[1:-1]
    assert max(map(len, figure)) <= 100
    assert 2 <= len(figure) <= 34
    assert "\x1b" not in answer.output
    if view in ("history", "edf"):
        assert {"coarse", "refine"} <= set(re.findall(r"coarse|refine", answer.output))


@pytest.mark.usefixtures("loaded")
@pytest.mark.parametrize("view", VIEWS)
@pytest.mark.parametrize("form", ["svg", "html"])
def test_a_file_stands_alone(dashboard: Dashboard, tmp_path: Path, view: str, form: str) -> None:
    out = tmp_path / f"x.{form}"
    answer = run(dashboard, view, "-o", str(out))
    assert answer.exit_code == 0, answer.output
    written = out.read_text()
    elements = Elements(written)
    assert not elements.open
    assert not {tag for tag, _ in elements.found} & {"script", "link", "img", "iframe", "object", "a"}
    assert not {n for _, attrs in elements.found for n in attrs} & {"src", "href", "style"}
    assert "--kind-0: light-dark(" in written, "its colours come with it"
    again = run(dashboard, view, "-o", str(out))
    assert (again.exit_code, out.read_text()) == (ExitCode.CONFLICT, written)


def test_what_is_drawn_is_what_the_api_says(dashboard: Dashboard) -> None:
    answer = run(dashboard, "history", "--filter", "stage:refine", "--x", "time", "--json")
    view = json.loads(answer.output)
    assert (view["x"], set(view["stage"]), view["total"]) == ("time", {1}, 8)
    assert run(dashboard, "history", "--filter", "nothing>1").exit_code == ExitCode.USAGE
    nothing = run(dashboard, "range_test")
    assert (nothing.exit_code, "nothing to draw in range_test yet" in nothing.output) == (
        ExitCode.FAILED,
        True,
    )
    wrong = run(dashboard, "history", "-o", "x.png")
    assert (wrong.exit_code, "neither .svg nor .html" in wrong.output) == (ExitCode.USAGE, True)


@pytest.mark.parametrize("form", ["svg", "html"])
def test_a_browser_opens_the_file_from_disk_with_the_network_off(
    dashboard: Dashboard, chromium: Any, tmp_path: Path, form: str
) -> None:
    out = tmp_path / f"x.{form}"
    assert run(dashboard, "history", "-o", str(out)).exit_code == 0
    context = chromium.new_context(offline=True, color_scheme="dark")
    page = context.new_page()
    wrong: list[str] = []
    page.on("console", lambda m: wrong.append(m.text))
    page.goto(out.as_uri())
    stroke = page.locator("svg .line.best").first.evaluate("(line) => getComputedStyle(line).stroke")
    assert (stroke, wrong) == ("rgb(228, 231, 234)", [])
    context.browser.close()
