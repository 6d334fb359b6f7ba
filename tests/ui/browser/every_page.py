"""Every page of the dashboard, found through its routes: a new page is looked at without being named here."""

from __future__ import annotations

import re
from typing import Any
from urllib.parse import quote

import httpx
from fastapi.routing import iter_route_contexts
from tunesmith_service.ui import pages

TRIALS = (9, 33)
"""Of the seeded study: its best trial, and the one that failed."""

STAGES = ("coarse", "refine")

QUERIES = {
    "/ui/compare": (
        "?trials={study}:9,{study}:33",
        "?studies={study}",
        "?stages={study}:{first},{study}:{last}",
    ),
    "/ui/studies/new": ("", "?clone={study}"),
}
"""Pages that show nothing, or something else, without a query."""

_NOT_PAGES = re.compile(
    r"/(parts|views|static|artifacts|snapshots|export|stream|login)\b|\.json$|\{rest:path\}"
)


def pages_of(dashboard: Any, stages: tuple[str, str] = STAGES) -> list[str]:
    """Addresses of all pages, with what they need to show something.

    Args:
        stages: two of the study's, by name.
    Raises: LookupError for a route whose parameters have no example here.
    """
    found: dict[str, None] = {}
    with dashboard.login() as person:
        for context in iter_route_contexts(pages.routes.routes):
            path = context.path or ""
            if "GET" not in (context.methods or ()) or not path.startswith("/ui/"):
                continue
            if _NOT_PAGES.search(path):
                continue
            for address in _filled(path, dashboard.study, stages):
                if _is_page(person, address):
                    found[address] = None
    return list(found)


def _filled(path: str, study: int, stages: tuple[str, str]) -> list[str]:
    """Addresses for a route; one a trial, where it speaks of a trial."""
    first, last = (quote(name, safe="") for name in stages)
    queries = [q.format(study=study, first=first, last=last) for q in QUERIES.get(path, ("",))]
    numbers = TRIALS if "{number}" in path else TRIALS[:1]
    filled = [path.replace("{study_id}", str(study)).replace("{number}", str(n)) for n in numbers]
    for address in filled:
        if unknown := re.findall(r"\{[^}]+\}", address):
            raise LookupError(f"{path}: give {', '.join(unknown)} an example in every_page.py")
    return [address + query for address in filled for query in queries]


def _is_page(person: httpx.Client, address: str) -> bool:
    """A whole page: no part, file or redirect. Only a page's body is read, for a stream has no end."""
    with person.stream("GET", address) as answer:
        if answer.status_code in (303, 307):
            return False
        is_html = answer.headers.get("content-type", "").startswith("text/html")
        is_saved = "attachment" in answer.headers.get("content-disposition", "")
        if not is_html or is_saved:
            return False
        assert answer.status_code == 200, f"{address} answers {answer.status_code}"
        return answer.read().lstrip()[:9].lower() == b"<!doctype"
