"""The interface's description on a page of its own: whole, and without any other server."""

from __future__ import annotations

import json
from html import unescape

import httpx
from ui.conftest import Dashboard


def test_every_operation_stands_on_the_page_with_its_answers(dashboard: Dashboard, person: httpx.Client):
    html = unescape(person.get("/ui/docs").text)
    told = json.loads(dashboard.api("GET", "/openapi.json").text)
    for path, methods in told["paths"].items():
        for method, operation in methods.items():
            assert f"<code>{method.upper()}</code> {path}</h2>" in html
            assert (operation.get("description") or operation["summary"]) in html
    for name in told["components"]["schemas"]:
        assert f'id="schema-{name}"' in html
