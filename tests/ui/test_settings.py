"""Tokens by hand: made, shown once, revoked."""

from __future__ import annotations

import re

import httpx
import pytest
from processes import until
from ui.conftest import Dashboard, csrf


def test_a_token_is_made_shown_once_and_revoked_with_its_sessions(dashboard: Dashboard, person: httpx.Client):
    word = {"Tunesmith-CSRF": csrf(person.get("/ui/settings").text)}
    fields = {"name": "a colleague", "role": "viewer", "days": "7"}
    part = person.post("/ui/settings/tokens", data=fields, headers=word).text
    token = part.partition('tabindex="0">')[2].partition("</pre>")[0]
    html = person.get("/ui/settings").text
    assert "a colleague" in html
    assert token not in html
    with dashboard.login(token) as colleague:
        own = colleague.get("/ui/settings").text
        assert "Make a token" not in own
        key = own.partition("token <b>")[2].partition("</b>")[0]
        assert person.post(f"/ui/settings/tokens/{key}/revoke", headers=word).status_code == 204
        until(lambda: colleague.get("/ui/studies").status_code == 303)


@pytest.mark.parametrize("fields", [{"name": "", "role": "viewer"}, {"name": "x", "role": "king"},
                                    {"name": "x", "role": "viewer", "days": "-1"}])  # fmt: skip
def test_a_token_that_cannot_be_is_refused(person: httpx.Client, fields: dict[str, str]):
    word = {"Tunesmith-CSRF": csrf(person.get("/ui/settings").text)}
    assert person.post("/ui/settings/tokens", data=fields, headers=word).status_code == 422


def test_the_roles_that_one_may_give_are_explained(dashboard: Dashboard, person: httpx.Client):
    html = person.get("/ui/settings").text
    for role in ("viewer", "researcher", "worker", "admin", "operator"):
        assert f"<dt>{role}</dt><dd>" in html
    with dashboard.login(dashboard.token("admin")) as admin:
        assert "<dt>operator</dt>" not in admin.get("/ui/settings").text


def test_the_audit_log_tells_an_admin_who_did_what(dashboard: Dashboard, person: httpx.Client):
    word = {"Tunesmith-CSRF": csrf(person.get("/ui/settings").text)}
    fields = {"name": "seen in the audit log", "role": "viewer"}
    assert person.post("/ui/settings/tokens", data=fields, headers=word).status_code == 200
    html = person.get("/ui/settings/audit").text
    first = html.partition("<tbody>")[2].partition("</tr>")[0]
    assert "token.create" in first
    assert "seen in the audit log" in first
    assert "operator:first operator" in first
    assert "127.0.0.1" in first
    assert "Head, to be noted elsewhere" in html
    assert re.search(r'<td class="wrap">role viewer; expires <time datetime="20[0-9TZ:-]+">', first)
    older = person.get("/ui/settings/audit?before=2").text
    assert '<td class="wrap">role operator; expires none</td>' in older  # the token of the first start
    assert not re.search(r"_us\b|\bNone\b|\[", re.sub("<[^>]*>", "", html.partition("<tbody>")[2]))
    assert older.partition("<tbody>")[2].partition("</tbody>")[0].count("<tr>") == 1
    with dashboard.login(dashboard.token("admin")) as admin:
        html = admin.get("/ui/settings/audit").text
        assert "Head, to be noted elsewhere" not in html
        assert "seen in the audit log" in html
