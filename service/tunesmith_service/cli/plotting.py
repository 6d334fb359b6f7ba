"""`tunesmith plot …`"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import click

from tunesmith_service.cli import text
from tunesmith_service.cli.base import CommandError, ExitCode, PeopleCommand, Session
from tunesmith_service.cli.studies import study_argument
from tunesmith_service.drawing import plots
from tunesmith_service.drawing import text as terminal
from tunesmith_service.drawing.plots import Plot

KINDS = (".svg", ".html")
MOST_ROWS = 28


@click.command(cls=PeopleCommand)
@study_argument
@click.argument("view", type=click.Choice(list(plots.PLOTS)))
@click.option(
    "-o", "--out", type=click.Path(path_type=Path, dir_okay=False), metavar="FILE",
    help="A file that stands alone, by its name SVG or HTML; default: the terminal.",
)  # fmt: skip
@click.option("--overwrite", is_flag=True, help="Replace FILE if there is one.")
@click.option("--filter", default=None, metavar="FILTER", help="Only the trials that it picks.")
@click.option("--x", type=click.Choice(list(plots.ALONG)), help="history: what trials are laid out along.")
@click.option("--across", metavar="NAME", help="map: the hyperparameter of its x axis.")
@click.option("--up", metavar="NAME", help="map: that of its y axis.")
@click.option("--metric", metavar="NAME", help="curves: what was reported; default: the objective.")
@click.option("--top", type=click.IntRange(0, 50), help="curves: so many of the best; 0: all. Default 10.")
@click.option("--evaluator", type=click.Choice(["ped_anova", "fanova"]), help="importance: by which method.")
@click.option("--stage", metavar="STAGE", help="range_test: which of several.")
def plot(session: Session, study: str, view: str, out: Path | None, overwrite: bool, **asked: Any) -> None:
    """Draw a view of a study in the terminal, or into a file: what the dashboard's charts draw."""
    if out is not None:
        _check(out, overwrite=overwrite)
    given = {name: value for name, value in asked.items() if value is not None}
    answer = session.client.get("studies", study, "views", view, **given)
    drawn = plots.PLOTS[view](answer)
    if drawn is None:
        raise CommandError(ExitCode.FAILED, f"there is nothing to draw in {view} yet")
    if out is None:
        session.show(answer, lambda _: on_terminal(drawn))
        return
    from tunesmith_service.drawing import files  # noqa: PLC0415 - templates take a while to load

    out.write_text(files.as_svg(drawn) if out.suffix == ".svg" else files.as_html(drawn, study))
    told = {"file": str(out), "view": view, "bytes": out.stat().st_size}
    session.show(told, lambda t: f"{t['file']}, {t['bytes'] / 1000:.0f} kB")


def _check(out: Path, *, overwrite: bool) -> None:
    if out.suffix not in KINDS:
        raise CommandError(ExitCode.USAGE, f"{out} ends in neither {' nor '.join(KINDS)}")
    if out.exists() and not overwrite:
        raise CommandError(ExitCode.CONFLICT, f"{out} exists already", "say --overwrite, or name another")


def on_terminal(drawn: Plot) -> str:
    columns, rows = shutil.get_terminal_size((100, 30))
    figure = terminal.text(drawn.drawing, columns, min(rows - 4, MOST_ROWS), coloured=text.is_coloured())
    return "\n".join(filter(None, (text.bold(drawn.title), figure, drawn.said)))
