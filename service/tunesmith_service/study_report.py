"""A study as one file that stands alone: what was asked, what was done, what came of it, at what cost, and
how to do it again. As HTML with figures, or as Markdown without.

The HTML asks the network for nothing and runs no script; its own policy forbids both.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any, Literal

import jinja2
import yaml
from markupsafe import Markup
from pydantic import ValidationError
from sqlalchemy import Connection
from tunesmith_studies.study import StudySpec

from tunesmith_service import charts, spending, store, trial_store
from tunesmith_service.column_cache import ColumnCache
from tunesmith_service.drawing import files, plots, svg
from tunesmith_service.drawing.plots import Plot
from tunesmith_service.ui import formats, screens

Format = Literal["html", "md"]

BEST = 10
MARKS = 1500
"""Trials that a figure shows at most: with them all figures are well below 200 kB."""


@dataclass(frozen=True, slots=True)
class Final:
    """What the last final stage says of its choice.

    Attributes:
        claimed: the search's own figure, which chose it.
        mean: of fresh seeds that chose nothing; its interval is where the true mean lies, with 95 %.
    """

    stage: str
    params: Mapping[str, Any]
    claimed: float | None
    mean: float
    seeds: int
    interval: tuple[float, float] | None
    test: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Report:
    study: screens.StudyView
    space: list[tuple[str, str]]
    fixed: Mapping[str, Any]
    top: list[trial_store.Trial]
    final: Final | None
    plots: list[Plot]
    failures: list[spending.Failure]
    diverged: Sequence[tuple[str, int]]
    costs: list[spending.Cost]
    spec: str
    command: str
    version: str
    now_us: int

    @property
    def best(self) -> trial_store.Trial | None:
        return self.top[0] if self.top else None

    @property
    def params(self) -> list[str]:
        return [n for n, _ in self.space]


def report(
    conn: Connection, cache: ColumnCache, shown: screens.StudyView, now_us: int, *, figures: bool = True
) -> Report:
    """What there is to say of a study now. `shown`: as `screens.study` reads it."""
    study, stages = shown.row, store.stages(conn, shown.id)
    spec = {**study.spec, "stages": [s.spec for s in stages]}
    top = trial_store.best_trials(conn, study, limit=BEST)
    return Report(
        study=shown,
        space=_space(spec),
        fixed=study.spec.get("fixed") or {},
        top=top,
        final=_final(stages),
        plots=_plots(conn, cache, study) if figures else [],
        failures=spending.failures(conn, shown.id),
        diverged=spending.diverged(conn, shown.id),
        costs=spending.costs(conn, shown.id, now_us),
        spec=yaml.safe_dump(spec, sort_keys=False, allow_unicode=True, width=100),
        command=_command(study, top),
        version=version("tunesmith"),
        now_us=now_us,
    )


def _space(spec: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Name and range of each hyperparameter, as people say it."""
    try:
        space = StudySpec.from_json(spec).space
    except ValidationError:  # written by another version
        return [(n, yaml.safe_dump(v, default_flow_style=True).strip()) for n, v in spec["space"].items()]
    return [(n, space[n].shown()) for n in space.names()]


def _final(stages: Sequence[store.StageRow]) -> Final | None:
    found = None
    for row in stages:
        numbers = (row.result or {}).get("numbers") or {}
        honest = numbers.get("honest") if row.kind == "final" else None
        if row.result and honest and isinstance(honest.get("mean"), float):
            interval = honest.get("confidence_interval")
            found = Final(
                row.name, row.result["chosen"]["params"], numbers.get("claimed"), honest["mean"],
                len(honest["values"]), tuple(interval) if interval else None, numbers.get("test") or {},
            )  # fmt: skip
    return found


def _command(study: store.Study, top: Sequence[trial_store.Trial]) -> str:
    """What a person types to run the study again, and its best trial alone."""
    lines = ["# with the study file below as study.yaml", "tunesmith study create -f study.yaml --watch"]
    if top:
        given = " ".join(f"-p {shlex.quote(f'{n}={_plain(v)}')}" for n, v in top[0].params.items())
        name = shlex.quote(study.name)
        lines += ["", f"# trial #{top[0].number} alone", f"tunesmith trial enqueue {name} {given}"]
    return "\n".join(lines)


def _plain(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else f"{value}"


# --- figures --------------------------------------------------------------------------------------


FIGURES: Mapping[str, charts.ChartQuery] = {
    "history": charts.ChartQuery(points=MARKS),
    "map": charts.ChartQuery(points=MARKS),
    "curves": charts.ChartQuery(filter="state:complete", top=BEST, train=False),
    "importance": charts.ChartQuery(),
}


def _plots(conn: Connection, cache: ColumnCache, study: store.Study) -> list[Plot]:
    drawn = (
        plots.PLOTS[name](charts.chart(conn, cache, study, name, query)) for name, query in FIGURES.items()
    )
    return [plot for plot in drawn if plot is not None]


# --- as a file ------------------------------------------------------------------------------------


def written(found: Report, form: Format) -> str:
    if form == "html":
        css = files.style("report.css")
        return _html.get_template("alone/report.html").render(
            r=found, study=found.study, style=files.allowed(css),
            css=Markup(css),  # noqa: S704 -- our own files
        )  # fmt: skip
    return _markdown.get_template("alone/report.md").render(r=found, study=found.study)


_TEMPLATES = jinja2.PackageLoader("tunesmith_service.ui")
_html = jinja2.Environment(
    loader=_TEMPLATES, autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
)
_html.filters |= formats.FILTERS | {"number": formats.number, "svg": svg.markup}


def cell(text: Any) -> str:
    """Any text within a line of Markdown: nothing in it is syntax, begins a line or stands for
    another character.

    >>> cell("a|b*c <i> &lt;")
    'a\\\\|b\\\\*c \\\\<i\\\\> \\\\&lt;'
    """
    return re.sub(r"([\\`*_\[\]<>|~]|&(?=#?\w+;))", r"\\\1", " ".join(str(text).split()))


def _plain_number(value: Any) -> str:
    return formats.number(value, pad=False) if not isinstance(value, str) else cell(value)


def _moment(us: int) -> str:
    return Markup(formats.moment(us)).striptags()  # noqa: S704 -- our own words


_markdown = jinja2.Environment(  # noqa: S701 -- Markdown: what comes from others goes through `cell`
    loader=_TEMPLATES, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
)
_markdown.filters |= {
    "cell": cell,
    "number": _plain_number,
    "duration": formats.duration,
    "gpu_hours": formats.gpu_hours,
    "moment": _moment,
    "indent": lambda text: "    " + text.replace("\n", "\n    "),
}
