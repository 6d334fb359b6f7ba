"""Templates into answers: autoescape on, an undefined name is an error, security headers on all."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

import jinja2
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response

from tunesmith_service.api import csp_reports
from tunesmith_service.ui import formats
from tunesmith_service.ui.assets import Assets

POLICY = (
    "default-src 'self'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "frame-ancestors 'none'; base-uri 'none'; form-action 'self'; object-src 'none'"
)
REPORTS = "csp"
"""What browsers that know `report-to` call the place; others know `report-uri`."""

assets = Assets()


def base(request: Request) -> str:
    """Where the dashboard lives, behind whatever prefix a proxy adds."""
    return f"{request.scope.get('root_path', '')}/ui"


def page_headers(request: Request) -> dict[str, str]:
    """What a page says of itself, beside what every answer says (`headers.py`)."""
    reports = f"{request.scope.get('root_path', '')}{csp_reports.PATH}"
    headers = {
        "Content-Security-Policy": f"{POLICY}; report-uri {reports}",
        "Referrer-Policy": "same-origin",  # no-referrer would also blank the Origin of our own forms
        "Cache-Control": "no-store",
    }
    if request.url.scheme == "https":  # Chromium has it there alone, and for it leaves report-uri unused
        headers["Content-Security-Policy"] += f"; report-to {REPORTS}"
        headers["Reporting-Endpoints"] = f'{REPORTS}="{reports}"'
    return headers


def _environment() -> jinja2.Environment:
    env = jinja2.Environment(
        loader=jinja2.PackageLoader("tunesmith_service.ui"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        auto_reload=False,
    )
    env.filters |= formats.FILTERS | {"urlencode": lambda text: quote(text, safe="")}
    return env


_env = _environment()


def warm_up() -> None:
    """Compile the templates and compress the files, which takes 0.4 s: the first who looks need not wait."""
    for name in _env.list_templates(filter_func=lambda name: not name.startswith("alone/")):
        _env.get_template(name)
    assets.compress()


def render(request: Request, template: str, *, status: int = 200, **context: Any) -> Response:
    """A page or a part of one. Every template knows `base`, `own`, `vendored`, `who` and `csrf`."""
    root = base(request)
    context = {"who": None, "csrf": "", "section": ""} | context
    html = _env.get_template(template).render(
        base=root,
        own=lambda file: f"{root}/static/{assets.own(file)}",
        vendored=lambda package: f"{root}/static/{assets.vendored(package)}",
        **context,
    )
    return HTMLResponse(html, status, page_headers(request))
