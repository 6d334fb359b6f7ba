"""No string of a client is ever part of a path: hundreds of ways out of a directory, against every route that
takes a path or a name. The server's own audit hook is the judge."""

from __future__ import annotations

import json
import re
import socket
from collections.abc import Iterator
from itertools import product
from urllib.parse import quote, unquote

from service.conftest import study
from service.test_route_matrix import OPEN_PAGES, PAGES
from service.test_security import MATRIX, OPEN, VALUES, path_of

from .conftest import CANARY, Asked, Said, Watched, bearer, bombard, in_watched_process, is_sound

CLIMBS = (
    "../",
    "..\\",
    "%2e%2e/",
    "%2e%2e%2f",
    "..%2f",
    "..%5c",
    "%2e%2e%5c",
    ".%2e/",
    "%2e./",
    "%252e%252e%252f",
    "..%252f",
    "..%255c",
    "%25252e%25252e%25252f",  # decoded twice, and thrice
    "..;/",
    "..;x=1/",
    "%2e%2e;/",
    "../;/",
    "#/../",
    "%23/../",
    "?/../",
    "%3f/../",
    "....//",
    "....\\\\",
    "..././",
    "..%00/",
    "../%00",
    "..%0a/",
    "..%0d%0a/",
    "..%09/",
    "%c0%ae%c0%ae%c0%af",
    "..%c0%af",
    "..%c1%9c",
    "%e0%80%ae%e0%80%ae/",
    "%f0%80%80%ae%f0%80%80%ae/",  # overlong
    "..%ef%bc%8f",
    "%ef%bc%8e%ef%bc%8e/",
    "..%e2%88%95",
    "%uff0e%uff0e/",
    "..%u2215",  # look like them
    "link/../",
    "blobs/link/",
    "./../",
    "x/../../",
    "//../",
    "\\..\\",
)
GOALS = ("etc/passwd", "canary.txt", "operator.token", "tunesmith.db")
ENDS = (
    "",
    "%00",
    "%00.png",
    "%2500",
    "%20",
    ".",
    "/",
    "/.",
    "%2f",
    "?x",
    "#x",
    "%23",
    ";x",
    "%3bx",
    "::$DATA",
)
ABSOLUTE = (
    "/etc/passwd",
    "//etc/passwd",
    "///etc/passwd",
    "%2fetc%2fpasswd",
    "%252fetc%252fpasswd",
    "\\etc\\passwd",
    "%5cetc%5cpasswd",
    "file:///etc/passwd",
    "file:%2f%2f%2fetc%2fpasswd",
    "file://localhost/etc/passwd",
    "/proc/self/environ",
    "/proc/self/fd/3",
    "%2fproc%2fself%2fmaps",
    "/dev/stdin",
    "~/.ssh/id_rsa",
    "~root/x",
    "$HOME/x",
    "${HOME}/x",
    "%24%7bHOME%7d",
    "C:\\Windows\\win.ini",
    "C:%5cWindows%5cwin.ini",
    "\\\\host\\share\\x",
    "%5c%5chost%5cshare",
    "http://127.0.0.1/x",
    "http:%2f%2f127.0.0.1%2fx",
    "@/etc/passwd",
    "CON",
    "NUL",
    "AUX.txt",
    "x:y",
    "zip:///etc/passwd!/x",
    "php://filter/resource=x",
    "jar:file:///x!/y",
)
DEPTHS = (1, 3, 9)


def payloads() -> list[str]:
    """As they stand in an address, each once."""
    found = [climb * depth + goal for climb, depth, goal in product(CLIMBS, DEPTHS, GOALS)]
    found += [f"../../{goal}{end}" for goal, end in product(GOALS, ENDS)]
    found += [f"%2e%2e%2f{goal}{end}" for goal, end in product(GOALS, ENDS)]
    return list(dict.fromkeys((*found, *ABSOLUTE)))


def targets(payload: str) -> Iterator[tuple[str, str]]:
    """Every route that takes a path or a name, with the payload in each of those places."""
    every = [r.replace(" ", " /api/v1", 1) for r in MATRIX] + [*PAGES, *OPEN, *OPEN_PAGES]
    for route in sorted(every):
        for name in re.findall(r"{([^}]+)}", route):
            yield path_of(route, VALUES | {name: payload})
    for path in ("/ui/login?to=", "/ui/compare?trials=", "/api/v1/compare?studies="):
        yield "GET", path + payload
    for path in ("", "/", "/ui/", "/ui/static/", "/api/v1/", "/api/v1/studies/../"):
        yield "GET", path + payload


READERS = ("/artifacts/", "/blobs/", "/snapshots/", "/ui/static/", "/report", "/export")
"""Routes that open a file, or name one: they get every payload, others every fifth."""


def requests(watched: Watched) -> Iterator[Asked]:
    people, worker = bearer(watched.token("operator")), bearer(watched.token("worker"))
    code = watched.people.post("/login-codes").json()["code"]
    login = Asked("POST", b"/ui/login", ((b"Origin", watched.url.encode()),), f"code={code}".encode())
    (cookie,) = [h for h in headers_of(watched.port, login) if h.lower().startswith("set-cookie:")]
    session = ((b"Cookie", cookie.partition(":")[2].partition(";")[0].strip().encode()),)
    for i, payload in enumerate(payloads()):
        for j, (method, path) in enumerate(targets(payload)):
            if (i + j) % 5 and not any(word in path for word in READERS):
                continue
            who = worker if "/leases/" in path or path.startswith("/api/v1/claims") else people
            yield Asked(method, path.encode(), session if path.startswith("/ui") else who)


def headers_of(port: int, asked: Asked) -> list[str]:
    """An answer's header lines."""
    with socket.create_connection(("127.0.0.1", port), 30) as wire:
        head = [
            f"POST {asked.target.decode()} HTTP/1.1",
            f"Host: 127.0.0.1:{port}",
            "Connection: close",
            f"Content-Length: {len(asked.body)}",
            *(f"{k.decode()}: {v.decode()}" for k, v in asked.headers),
        ]
        wire.sendall("\r\n".join(head).encode() + b"\r\n\r\n" + asked.body)
        told = b"".join(iter(lambda: wire.recv(65536), b""))
    return told.partition(b"\r\n\r\n")[0].decode().split("\r\n")


def leaks(said: Said, watched: Watched) -> bool:
    secrets = (CANARY.encode(), b"root:x:0", b"SQLite format 3", watched.token("operator").encode())
    return any(secret in said.body for secret in secrets)


def test_there_are_enough_of_them():
    assert len(payloads()) >= 500
    assert len(list(targets("x"))) >= 60


def test_no_address_leads_out_of_what_is_served(watched: Watched):
    (watched.home / "blobs" / "link").symlink_to("/")
    asked = list(requests(watched))
    answers = bombard(watched.port, asked)
    assert len(answers) > 10_000
    wrong = [(a.asked.method, a.asked.target, a.status) for a in answers if not is_sound(a.status)]
    assert not wrong, wrong[:5]
    leaked = [a.asked.target for a in answers if leaks(a, watched)]
    assert not leaked, leaked[:5]
    assert watched.hits() == []
    outside = {p.name for p in watched.home.parent.iterdir()}
    assert outside - {"hits"} == {"home", "canary.txt"}


def test_no_name_leads_out_either(watched: Watched):
    """Names in bodies: of studies, stages, tasks, artifacts, tags; then all that is made of them."""
    names = list(dict.fromkeys(n[:128] for p in payloads() for n in (p, unquote(p))))
    trial, lease = watched.lease()
    empty = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    worker = tuple((k.encode(), v.encode()) for k, v in lease.items())
    put = Asked("PUT", f"/api/v1/leases/{trial}/blobs/{empty}".encode(), worker)
    assert bombard(watched.port, [put])[0].status == 204
    json_ = (b"Content-Type", b"application/json")
    people = bearer(watched.token("operator"))
    asked: list[Asked] = []
    for name in names:
        written = f'{{"name": {json.dumps(name)}, "sha256": "{empty}"}}'.encode()
        asked.append(Asked("POST", f"/api/v1/leases/{trial}/artifacts".encode(), (*worker, json_), written))
        there = f"/api/v1/studies/leased-0/trials/0/artifacts/{quote(name, safe='')}"
        asked.append(Asked("GET", there.encode(), people))
    for name in names[::7]:
        stage = {"kind": "coarse_grid", "name": name, "epochs": 3, "axes": {"lr": 4}}
        body = json.dumps(study(name, task=name, stages=[stage])).encode()
        asked.append(Asked("POST", b"/api/v1/studies", (*people, json_), body))
        for what in ("/report", "/trials/export", ""):
            asked.append(Asked("GET", f"/api/v1/studies/{quote(name, safe='')}{what}".encode(), people))
    answers = bombard(watched.port, asked, at_once=1)
    wrong = [(a.asked.method, a.asked.target, a.status) for a in answers if not is_sound(a.status)]
    assert not wrong, wrong[:5]
    assert not [a.asked.target for a in answers if leaks(a, watched)]
    assert sum(a.status == 200 for a in answers) > 500  # most are names like any other
    assert watched.hits() == []


def test_the_hook_would_have_seen_it(tmp_path_factory):
    root = tmp_path_factory.mktemp("seen")
    script = (
        "watched.watch(HITS, HOME)\n"
        "open('/etc/passwd').close()\n"
        "import pickle; pickle.loads(pickle.dumps(print))\n"
        "try: import evil_payload\nexcept ImportError: pass\n"
        "__import__('os').system('true')\n"
    )
    seen = [line.split()[0] for line in in_watched_process(script, root)]
    assert [s for s in seen if s != "import"] == ["open", "pickle.find_class", "os.system"]
    assert "import" in seen
