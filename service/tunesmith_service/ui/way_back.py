"""The page that somebody comes back to after logging in. It stands in the login page's address, as a path
behind the dashboard's own: whatever else is put there leads to the list of studies.

    /ui/login?to=studies/5%3Ffilter=value%3C1
"""

from __future__ import annotations

import re
from urllib.parse import quote, unquote

from starlette.requests import Request

from tunesmith_service.security import own_path

HOME = "studies"
FIELD = "to"
MOST_CHARACTERS = 2000
_NO_PAGES = frozenset({"login", "logout", "session", "static"})
_IN_ADDRESSES = re.compile(r"[A-Za-z0-9._~%!$&'()*+,;=:@/?\[\]-]+")
"""No backslash, which browsers take for a slash, no space and nothing that is not printed."""


def kept(to: str) -> str:
    """`to`, or HOME if it is no page of the dashboard.

    >>> kept("studies/5?filter=value%3C1"), kept("//evil.example"), kept("studies/../../x")
    ('studies/5?filter=value%3C1', 'studies', 'studies')
    """
    if len(to) > MOST_CHARACTERS or not _IN_ADDRESSES.fullmatch(to):
        return HOME
    steps = unquote(to.partition("?")[0]).split("/")
    if steps[0] in _NO_PAGES or ":" in steps[0] or not {"", ".", ".."}.isdisjoint(steps):
        return HOME
    return to


def asked(request: Request) -> str:
    """The page that a request was for."""
    path = quote(own_path(request))
    query = request.scope["query_string"].decode("latin-1")
    return kept(path.removeprefix("/ui/") + (f"?{query}" if query else ""))


def to_login(base: str, to: str) -> str:
    """The login page's address."""
    return f"{base}/login" if to == HOME else f"{base}/login?{FIELD}={quote(to, safe='')}"
