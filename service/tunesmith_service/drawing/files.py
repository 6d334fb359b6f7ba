"""A figure as a file that stands alone: it asks the network for nothing, and its own policy forbids it to."""

from __future__ import annotations

import base64
import hashlib
import re
from functools import cache

import jinja2
from markupsafe import Markup

from tunesmith_service.drawing import svg
from tunesmith_service.drawing.plots import Plot
from tunesmith_service.ui.assets import STATIC

_TEMPLATES = jinja2.Environment(
    loader=jinja2.PackageLoader("tunesmith_service.ui"), autoescape=True, undefined=jinja2.StrictUndefined
)


def as_svg(plot: Plot) -> str:
    return str(svg.markup(plot.drawing, css=style()))


def as_html(plot: Plot, heading: str) -> str:
    css = style("report.css")
    return _TEMPLATES.get_template("alone/plot.html").render(
        plot=plot, heading=heading, drawn=svg.markup(plot.drawing), style=allowed(css),
        css=Markup(css),  # noqa: S704 -- our own files
    )  # fmt: skip


def allowed(css: str) -> str:
    """What a policy says that allows this one style."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(css.encode()).digest()).decode()}'"


@cache
def style(*files: str) -> str:
    """Our variables for both themes, then how figures look, then these of our own files."""
    variables = re.search(r":root \{.*?\n\}\n", (STATIC / "app.css").read_text(), re.DOTALL)
    assert variables, "app.css begins with the variables of both themes"
    return variables[0] + "".join((STATIC / name).read_text() for name in ("plots.css", *files))
