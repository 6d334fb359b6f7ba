"""Security headers on every answer, whatever gives it. What an answer says of itself stands.

Pages have a policy of their own (`ui/rendering.py`); of everything else a browser shall run nothing.
"""

from __future__ import annotations

from collections.abc import Mapping

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import Scope

DEFAULTS: Mapping[str, str] = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), microphone=(), geolocation=(), payment=(), usb=()",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'; form-action 'none'",
    "Referrer-Policy": "no-referrer",
}
REQUEST_ID_HEADER = "Tunesmith-Request-Id"

ONLY_HTTPS = "max-age=31536000"
"""A year. Without includeSubDomains: names below ours are not ours."""


_RAW = [(name.lower().encode(), value.encode()) for name, value in DEFAULTS.items()]


def harden(headers: MutableHeaders, scope: Scope) -> None:
    """Add what is not there yet."""
    there = {name for name, _ in headers.raw}
    headers.raw.extend(pair for pair in _RAW if pair[0] not in there)
    if _is_the_hosts_https(scope):
        headers.setdefault("Strict-Transport-Security", ONLY_HTTPS)


def _is_the_hosts_https(scope: Scope) -> bool:
    """Strict-Transport-Security binds every port and path of a host name, so only who has all of its https
    may send it: neither a server on a port of its own, beside others on plain http, nor one below a path."""
    if scope["scheme"] != "https" or scope.get("root_path"):
        return False
    host = Headers(scope=scope).get("host", "")
    port = host.rpartition("]")[2].partition(":")[2]  # an IPv6 address has its own colons, in brackets
    return port in ("", "443")
