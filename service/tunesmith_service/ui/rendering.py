"""Templates into answers: autoescape on, an undefined name is an error, security headers on all."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

import jinja2
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response

from tunesmith_service.ui import formats
from tunesmith_service.ui.assets import Assets

SECURITY_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'self'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
        "frame-ancestors 'none'; base-uri 'none'; form-action 'self'"
    ),
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "same-origin",  # no-referrer would also blank the Origin of our own forms
    "Cross-Origin-Opener-Policy": "same-origin",
    "Permissions-Policy": "camera=(), microphone=(), geolocation=()",
}
PAGE_HEADERS = SECURITY_HEADERS | {"Cache-Control": "no-store"}

assets = Assets()


def base(request: Request) -> str:
    """Where the dashboard lives, behind whatever prefix a proxy adds."""
    return f"{request.scope.get('root_path', '')}/ui"


def _environment() -> jinja2.Environment:
    env = jinja2.Environment(
        loader=jinja2.PackageLoader("tunesmith_service.ui"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    env.filters |= formats.FILTERS | {"urlencode": lambda text: quote(text, safe="")}
    return env


_env = _environment()


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
    return HTMLResponse(html, status, PAGE_HEADERS)
