"""What gets into logs, errors, the audit log and exports: no secret, no line that another wrote, nothing
that a terminal or a spreadsheet obeys."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

import httpx
import pytest
from processes import until
from service.conftest import study
from tunesmith_service.security import CSRF_HEADER, csrf_of
from tunesmith_service.tokens import Token

from .conftest import Asked, Watched, bearer, bombard

FORGED = (
    "x\n2026-01-01T00:00:00Z [info     ] token.created actor=operator:forged",
    "x\r\n2026-01-01T00:00:00Z [info     ] token.created actor=operator:forged",
    "x\r2026-01-01 forged",
    "x\u2028forged",
    "x\u2029forged",
    "x\x85forged",
    "x\x0bforged",
    "x\x0cforged",
    '", "event": "forged", "x": "',
    "x\x00forged",
    "x\x1b[2K\x1b[1Aforged",
    "\x1b]0;forged\x07",
    "\x1b]52;c;Zm9yZ2Vk\x07",
    "\x9b31mforged",
    "\x08" * 40 + "forged",
    "\u202edegrof",
    "\x1b[8mforged",
)
CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")


@pytest.fixture(scope="module", params=["text", "json"])
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watched]:
    environ = {"TUNESMITH_DATABASE_URL": ""}
    root = tmp_path_factory.mktemp(request.param)
    with Watched(root, "--log-format", request.param, environ=environ) as made:
        made.form = request.param
        yield made


def requests(server: Watched) -> Iterator[Asked]:
    """Each forged text in each place of a request that may come into the log."""
    people = bearer(server.token("operator"))
    for text in FORGED:
        raw = text.encode("utf-8", "replace")
        inside = quote(raw, safe="").encode()
        yield Asked("GET", b"/" + inside, people)
        yield Asked("GET", b"/api/v1/studies/" + inside, people)
        yield Asked("GET", b"/api/v1/studies?x=" + inside, people)
        yield Asked("GET", b"/ui/login?to=" + inside)
        flat = re.sub(rb"[\r\n\0]", b" ", raw)
        yield Asked("GET", b"/api/v1/nowhere", (*people, (b"User-Agent", flat), (b"X-Forwarded-For", flat)))
        yield Asked("GET", b"/api/v1/nowhere", ((b"Authorization", b"Bearer " + flat),))
        yield Asked("POST", b"/api/v1/studies", (*people, (b"Origin", flat)))
        yield Asked("POST", b"/api/v1/studies", (*people, (b"Content-Type", flat)), b"{}")
        yield Asked(
            "POST",
            b"/api/v1/studies",
            (*people, (b"Content-Type", b"application/json")),
            json.dumps(study(text)).encode(),
        )
        report = {"csp-report": {"document-uri": text, "violated-directive": text, "blocked-uri": text}}
        kind = (b"Content-Type", b"application/csp-report")
        yield Asked("POST", b"/csp-reports", (kind,), json.dumps(report).encode())


def test_nobody_writes_a_line_of_the_log_but_the_service(server: Watched):
    bombard(server.port, list(requests(server)))
    server.people.get("/studies/the-last-line-of-this-test")
    until(lambda: "the-last-line-of-this-test" in server.process.said, saw=lambda: server.process.said)
    lines = list(server.process.lines)
    assert sum("forged" in line for line in lines) > 20  # they came into the log, as text
    for line in lines:
        body = line.removesuffix("\n")
        assert not CONTROL.search(body), body
        if server.form == "json":
            assert json.loads(body)["event"] != "forged"
        else:
            assert re.match(r"\d{4}-\d\d-\d\dT[\d:.]+Z \[", body), body
            assert not re.match(r"2026-01-01", body), body


class Secrets:
    """Everything that is secret about some people, who come in, do things and are refused."""

    def __init__(self, server: Watched) -> None:
        self.server = server
        self.found: set[str] = {server.token("operator"), server.token("worker")}
        self.told: list[str] = []

    def ask(self, method: str, path: str, token: str, **more: Any) -> httpx.Response:
        headers = ({"Authorization": f"Bearer {token}"} if token else {}) | more.pop("headers", {})
        answer = httpx.request(method, f"{self.server.url}{path}", headers=headers, timeout=60, **more)
        self.told.append(answer.text)
        return answer

    def live(self) -> None:
        operator = self.server.token("operator")
        made = self.ask("POST", "/api/v1/tokens", operator, json={"name": "ann", "role": "researcher"}).json()
        self.told.pop()  # the one answer that shows a token
        token = made["token"]
        code = self.ask("POST", "/api/v1/login-codes", token).json()["code"]
        self.told.pop()  # and the one that shows a code
        origin = {"Origin": self.server.url}
        cookie = httpx.post(f"{self.server.url}/ui/login", data={"code": code}, headers=origin).headers[
            "set-cookie"
        ]
        secret = cookie.partition("=")[2].partition(";")[0]
        self.found |= {token, code, secret, csrf_of(secret)}
        name = cookie.partition("=")[0]
        page = {"Cookie": f"{name}={secret}", **origin}
        for headers in (page, page | {CSRF_HEADER: csrf_of(secret)}):
            self.told.append(httpx.post(f"{self.server.url}/ui/studies/1/stop", headers=headers).text)
        httpx.post(f"{self.server.url}/ui/login", data={"code": code}, headers=origin)  # used already
        self._wrongly(token, code, secret)
        self.ask("DELETE", f"/api/v1/tokens/{made['key_id']}", operator)
        self.ask("GET", "/api/v1/studies", token)
        self._work()

    def _wrongly(self, token: str, code: str, secret: str) -> None:
        """Secrets where they do not belong, as people paste them."""
        operator = self.server.token("operator")
        self.ask("GET", "/api/v1/studies", token[:-1] + "0")
        self.ask("GET", "/api/v1/studies", token + "0")
        self.ask("POST", "/api/v1/studies", operator, json=study("pasted") | {"token": token})
        self.ask("POST", "/api/v1/studies", operator, content=b"{" + token.encode())
        self.ask("GET", "/api/v1/studies", "", headers={"Authorization": f"Basic {token}"})
        self.ask("GET", "/api/v1/studies", "", headers={"Authorization": token})
        self.ask("GET", "/ui/studies", "", headers={"Cookie": f"x={secret}"})
        self.ask("GET", f"/ui/login?code={code}", "")

    def _work(self) -> None:
        trial, lease = self.server.lease()
        secret = lease["Tunesmith-Lease"].rpartition(".")[2]
        self.found.add(secret)
        token = self.server.token("worker")
        for header in (lease["Tunesmith-Lease"], f"1.9.{secret}", secret, f"{secret}.1.1"):
            self.ask("POST", f"/api/v1/leases/{trial}/heartbeat", token, headers={"Tunesmith-Lease": header})
        beaten = {"state": "failed", "stop_reason": "error", "error": {"kind": "E", "message": "m"}}
        self.ask("POST", f"/api/v1/leases/{trial}/finish", token, headers=lease, json=beaten)
        for path in (
            "/studies/leased-0",
            "/studies/leased-0/events",
            "/studies/leased-0/trials/0",
            "/workers",
            "/tokens",
            "/sessions",
            "/audit",
            "/studies/leased-0/report",
        ):
            self.ask("GET", f"/api/v1{path}", self.server.token("operator"))


def test_no_secret_is_told_in_logs_errors_or_the_audit_log(server: Watched):
    secrets = Secrets(server)
    secrets.live()
    server.people.get("/studies/the-very-last-line")
    until(lambda: "the-very-last-line" in server.process.said, saw=lambda: server.process.said)
    parts = secrets.found | {token.secret for s in secrets.found if (token := Token.read(s))}
    assert len(parts) >= 8
    assert min(map(len, parts)) >= 16  # a shorter one stands in any text by chance
    for where, text in (("log", server.process.said), *((f"answer {t[:80]}", t) for t in secrets.told)):
        for part in parts:
            assert part not in text, (where, part[:6])
    assert any("ann" in t for t in secrets.told)  # there was something to be told


FORMULAS = (
    "=1+1",
    "=cmd|' /C calc'!A0",
    "+1+1",
    "-1+1",
    "@SUM(1)",
    '=HYPERLINK("http://x")',
    '=IMPORTXML("x")',
    "\uff1d1+1",
    "\uff0b1",
    "\uff0d1",
    "\uff20SUM(1)",
    " =1+1",
    "'=1+1",
    '"=1+1"',
    '=""&1',
    "1;=1+1",
    "1,=1+1",
    "-2+3+cmd|' /C calc'!A0",
    '=DDE("cmd";"/C calc";"x")',
    "+cmd|x!A0",
    "@=1",
)


def test_no_cell_of_an_export_is_a_formula(watched: Watched):
    space = {name: {"low": 0.1, "high": 1.0} for name in FORMULAS[:8]} | {"choice": list(FORMULAS)}
    stages = [{"kind": "random", "name": "=1+1", "epochs": 3, "trials": 4}]
    made = watched.post("/studies", study("=formula", space=space, stages=stages))
    params = [dict.fromkeys(FORMULAS[:8], 0.5) | {"choice": choice} for choice in FORMULAS]
    watched.post(f"/studies/{made['id']}/trials", {"params": params})
    watched.post(f"/studies/{made['id']}/tags", {"trials": [0], "add": ["=tag"]})
    for query in ("", "?columns=" + quote(",".join(["number", "stage", "tag", "choice"]))):
        text = watched.people.get(f"/studies/{made['id']}/trials/export{query}").text
        cells = [cell for row in csv.reader(io.StringIO(text)) for cell in row]
        assert any("cmd|" in cell for cell in cells)
        for cell in cells:
            assert not re.match(r"[=@\t\r\n\uff1d\uff0b\uff0d\uff20]", cell), cell
            assert not re.match(r"[+-]", cell) or re.fullmatch(r"[+-]?[\d.e+-]+|-Infinity", cell), cell
