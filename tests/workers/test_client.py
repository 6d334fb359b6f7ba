"""The client's rules: what it repeats, how long it waits, and which exception a refusal becomes."""

from __future__ import annotations

import asyncio
import hashlib
import json
import math
import ssl
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random
from typing import Any

import httpx
import pytest
from certificates import certificate
from tunesmith_service import errors, wire
from tunesmith_service.client import AsyncClient, Client, CorruptDownloadError, Lease, Retries, WorkerClient
from tunesmith_service.exchange import CHUNK_BYTES, failure
from tunesmith_service.servers import COOL_SECONDS

URL = "http://127.0.0.1:8787"
LEASE = Lease(trial_id=7, incarnation=1, attempt=3, secret="a" * 32)
REPORT = wire.Report(seq=1, points=[wire.ReportPoint(step=1, metrics={"val/loss": math.nan})])
REPORTED = {"ttl_seconds": 30.0}


def problem(status: int, kind: str, **more: Any) -> httpx.Response:
    body = {"type": f"urn:tunesmith:{kind}", "title": kind, "status": status, "detail": f"because {kind}"}
    return httpx.Response(status, json=body | more)


class Service:
    """Answers from a list, the last one for ever; time passes only while the client sleeps."""

    def __init__(self, *answers: httpx.Response | Exception) -> None:
        self.answers, self.requests, self.pauses = list(answers), [], []
        self.bodies: list[bytes] = []
        self.now = 0.0

    async def handle(self, request: httpx.Request) -> httpx.Response:
        self.bodies.append(await request.aread())
        return self._answer(request)

    def handle_sync(self, request: httpx.Request) -> httpx.Response:
        self.bodies.append(request.read())
        return self._answer(request)

    def _answer(self, request: httpx.Request) -> httpx.Response:
        self.requests.append(request)
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, Exception):
            raise answer
        return answer

    async def sleep(self, seconds: float) -> None:
        self.sleep_sync(seconds)

    def sleep_sync(self, seconds: float) -> None:
        self.pauses.append(seconds)
        self.now += seconds

    def worker(self) -> WorkerClient:
        return WorkerClient(
            URL, "tsm_token", transport=httpx.MockTransport(self.handle),
            random=Random(1), clock=lambda: self.now, sleep=self.sleep,
        )  # fmt: skip

    def person(self, **options: Any) -> Client:
        return Client(
            URL, "tsm_token", transport=httpx.MockTransport(self.handle_sync),
            random=Random(1), clock=lambda: self.now, sleep=self.sleep_sync, **options,
        )  # fmt: skip


def every_error() -> Iterator[type[errors.TunesmithError]]:
    def below(kind: type[errors.TunesmithError]) -> Iterator[type[errors.TunesmithError]]:
        for child in kind.__subclasses__():
            yield child
            yield from below(child)

    for kind in below(errors.Refused):
        if kind.__module__ == errors.__name__ and kind is not errors.Refused:
            yield kind


@pytest.mark.parametrize("kind", [k for k in every_error() if k.status not in (408, 425, 429)])
def test_a_refusal_comes_back_as_the_exception_it_was(kind):
    response = problem(kind.status, kind.type, outcome={"expected_seq": 4})
    refused = failure(response)
    assert type(refused) is kind
    assert refused.detail == f"because {kind.type}"
    assert refused.outcome == {"expected_seq": 4}


def test_an_unknown_kind_of_refusal_comes_back_by_its_status():
    assert type(failure(problem(409, "from_a_newer_server"))) is errors.Conflict
    assert type(failure(problem(418, "from_a_newer_server"))) is errors.Refused


@pytest.mark.parametrize(
    "trouble",
    [
        httpx.ConnectError("refused"),
        httpx.ReadTimeout("slow"),
        httpx.RemoteProtocolError("cut off"),
        *(httpx.Response(status) for status in (408, 425, 429, 500, 502, 503, 504)),
        httpx.Response(200, text="<html>a proxy's greeting</html>"),
    ],
    ids=str,
)
def test_what_may_pass_is_tried_again_with_the_same_body(trouble):
    service = Service(trouble, trouble, httpx.Response(200, json=REPORTED))
    assert asyncio.run(service.worker().report(LEASE, REPORT)).ttl_seconds == 30
    assert len(service.bodies) == 3
    assert len(set(service.bodies)) == 1
    assert json.loads(service.bodies[0])["points"][0]["metrics"] == {"val/loss": "NaN"}


def test_a_page_that_is_no_answer_of_the_service_is_no_answer_to_a_person():
    def page() -> httpx.Response:
        return httpx.Response(200, text="<html>a proxy's greeting</html>")

    assert Service(page(), httpx.Response(200, json={"n": 1})).person().get("studies", "one") == {"n": 1}
    with pytest.raises(errors.Unavailable, match="/studies/one answered something else than Tunesmith does"):
        Service(page()).person(retry_for=0).get("studies", "one")
    with pytest.raises(errors.Unavailable, match="answered something else than Tunesmith does"):
        asyncio.run(asked_by_a_program(Service(page())))
    assert Service(httpx.Response(204)).person().delete("studies", "one") is None


async def asked_by_a_program(service: Service) -> Any:
    transport = httpx.MockTransport(service.handle)
    async with AsyncClient(URL, "tsm_token", transport=transport, retry_for=0) as client:
        return await client.get("studies", "one")


@pytest.mark.parametrize("status", [400, 401, 403, 404, 409, 413, 422, 507])
def test_a_refusal_is_not_tried_again(status):
    service = Service(problem(status, "whatever"))
    with pytest.raises(errors.Refused):
        asyncio.run(service.worker().report(LEASE, REPORT))
    assert len(service.requests) == 1


def test_a_worker_is_told_of_trouble_and_of_its_end():
    service, told = Service(httpx.ConnectError("refused"), httpx.Response(200, json=REPORTED)), []
    client = WorkerClient(
        URL, "t", transport=httpx.MockTransport(service.handle), sleep=service.sleep,
        on_trouble=lambda trouble, pause: told.append(trouble and trouble.detail),
    )  # fmt: skip
    asyncio.run(client.report(LEASE, REPORT))
    assert told == [f"no answer from {URL}: refused; is the service running there?", None]


class Pair:
    """Two servers of one service: who was asked for what, and which are away, by how they fail."""

    def __init__(self, **away: httpx.Response | Exception) -> None:
        self.away, self.asked, self.now = away, [], 0.0

    def __call__(self, request: httpx.Request) -> httpx.Response:
        self.asked.append(request.url.host)
        answer = self.away.get(request.url.host, httpx.Response(200, json=REPORTED))
        if isinstance(answer, Exception):
            raise answer
        return answer

    def sleep(self, seconds: float) -> None:
        self.now += seconds

    def person(self, **options: Any) -> Client:
        return Client(
            "http://a:8787/lab, http://b:8787/", "t", transport=httpx.MockTransport(self), random=Random(1),
            clock=lambda: self.now, sleep=self.sleep, **options,
        )  # fmt: skip


def test_servers_of_one_service_are_asked_in_turn():
    pair = Pair()
    client = pair.person()
    for _ in range(4):
        client.get("studies")
    assert pair.asked in (["a", "b", "a", "b"], ["b", "a", "b", "a"])


@pytest.mark.parametrize(
    "how", [httpx.ConnectError("refused"), httpx.ReadTimeout("late"), problem(503, "unavailable")]
)
def test_a_server_that_does_not_answer_is_passed_over_at_once_and_asked_again_after_a_while(how: Any):
    pair = Pair(a=how)
    client = pair.person(retry_for=0)
    for _ in range(6):
        client.get("studies")  # without a pause, and without an error
    assert pair.asked.count("a") == 1
    assert pair.now == 0.0
    pair.away.clear()
    pair.now = COOL_SECONDS
    pair.asked.clear()
    for _ in range(4):
        client.get("studies")
    assert sorted(pair.asked) == ["a", "a", "b", "b"]


def test_when_no_server_answers_the_tries_go_round_and_the_last_trouble_is_told():
    pair = Pair(a=httpx.ConnectError("refused"), b=httpx.ConnectError("refused"))
    with pytest.raises(errors.Unavailable, match=r"no answer from http://[ab]:8787"):
        pair.person(retry_for=5).get("studies")
    assert {*pair.asked} == {"a", "b"}
    assert len(pair.asked) > 3


def test_a_busy_server_is_not_passed_over():
    pair = Pair(a=problem(429, "busy"), b=problem(429, "busy"))
    with pytest.raises(errors.Unavailable):
        pair.person(retry_for=0).get("studies")
    assert len(pair.asked) == 1


@pytest.mark.parametrize("urls", ["", "http://a,", "a:8787", "http://a,ftp://b"])
def test_what_is_no_address_is_refused_with_an_example(urls: str):
    with pytest.raises(ValueError, match=r"such as http://127.0.0.1:8787, got"):
        Client(urls, "t")


def test_pauses_are_full_jitter_doubling_from_half_a_second_to_thirty():
    for tries, bound in [(1, 0.5), (2, 1.0), (4, 4.0), (7, 30.0), (5000, 30.0)]:
        pauses = [Retries(Random(seed)).pause(tries) for seed in range(300)]
        assert min(pauses) < bound * 0.1
        assert bound * 0.9 < max(pauses) <= bound


def test_beats_never_pause_longer_than_their_cap_whatever_the_service_asks():
    for seed in range(100):
        retries = Retries(Random(seed))
        assert all(retries.pause(n, cap=10.0, retry_after=60.0) <= 10.0 for n in range(1, 40))


def test_a_spent_retry_budget_slows_retries_and_calls_earn_it_back():
    retries = Retries(Random(1))
    for _ in range(20):
        assert retries.pause(1) <= 0.5
    assert retries.pause(1) >= 15
    for _ in range(10):
        retries.earn()
    assert retries.pause(1) <= 0.5


def test_retry_after_is_obeyed():
    busy = httpx.Response(503, headers={"Retry-After": "7"})
    service = Service(busy, httpx.Response(200, json=REPORTED))
    asyncio.run(service.worker().report(LEASE, REPORT))
    assert 7 <= service.pauses[0] <= 7.5


def test_a_beat_is_one_try_alone_because_its_caller_must_know_when_it_was_sent():
    service = Service(httpx.ConnectError("refused"))
    with pytest.raises(errors.Unavailable):
        asyncio.run(service.worker().beat(LEASE))
    assert len(service.requests) == 1
    assert service.requests[0].extensions["timeout"] == {"connect": 3, "read": 5, "write": 10, "pool": None}


def test_a_lease_travels_in_its_header_and_the_token_as_bearer():
    service = Service(httpx.Response(200, json=REPORTED))
    asyncio.run(service.worker().report(LEASE, REPORT))
    headers = service.requests[0].headers
    assert headers[wire.LEASE_HEADER] == f"1.3.{'a' * 32}"
    assert headers["Authorization"] == "Bearer tsm_token"
    assert str(service.requests[0].url) == f"{URL}/api/v1/leases/7/reports"


def test_a_claim_waits_for_its_answer_longer_than_it_asked_the_service_to_wait():
    service = Service(httpx.Response(200, json={}))
    ids = dict.fromkeys(("claim_id", "worker_id", "boot_id", "slot_id", "secret"), "0" * 32)
    reply = asyncio.run(service.worker().claim(wire.ClaimRequest(**ids, wait_seconds=20)))
    assert reply.grant is None
    assert service.requests[0].extensions["timeout"]["read"] == 30


def test_an_upload_is_read_in_pieces_and_from_the_start_on_each_try(tmp_path: Path):
    file = tmp_path / "snapshot"
    file.write_bytes(bytes(range(256)) * 4096)  # 1 MiB
    pieces: list[int] = []

    class Line(httpx.AsyncBaseTransport):
        async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
            sent = [len(piece) async for piece in request.stream]
            pieces.extend(sent)
            assert sum(sent) == int(request.headers["Content-Length"])
            return httpx.Response(503 if len(pieces) == len(sent) else 204)

    client = WorkerClient(URL, "t", transport=Line(), sleep=Service().sleep)
    asyncio.run(client.put_blob(LEASE, file, "0" * 64))
    assert max(pieces) <= CHUNK_BYTES
    assert sum(pieces) == 2 * file.stat().st_size


def test_a_download_appears_only_when_its_bytes_are_the_right_ones(tmp_path: Path):
    data = b"weights"
    service = Service(httpx.Response(200, content=b"damaged"), httpx.Response(200, content=data))
    target, client, sha256 = tmp_path / "resume", service.worker(), hashlib.sha256(data).hexdigest()
    with pytest.raises(CorruptDownloadError, match=r"damaged, in the service's store .* nothing was kept"):
        asyncio.run(client.fetch_snapshot(LEASE, sha256, target))
    assert list(tmp_path.iterdir()) == []
    asyncio.run(client.fetch_snapshot(LEASE, sha256, target))
    assert [p.name for p in tmp_path.iterdir()] == ["resume"]
    assert target.read_bytes() == data


def test_a_download_that_is_refused_says_why(tmp_path: Path):
    service = Service(problem(409, "lease_lost"))
    with pytest.raises(errors.LeaseLost, match="because lease_lost"):
        asyncio.run(service.worker().fetch_snapshot(LEASE, "0" * 64, tmp_path / "x"))


def test_a_person_is_told_at_last_that_nothing_answers():
    service = Service(httpx.ConnectError("refused"))
    with pytest.raises(errors.Unavailable, match="is the service running there"):
        service.person(retry_for=10).get("studies")
    assert sum(service.pauses) <= 10
    assert len(service.requests) > 3


def test_all_tries_of_one_creation_carry_one_idempotency_key_and_two_creations_two():
    service = Service(httpx.ReadError("cut"), httpx.Response(201, json={"id": 1}))
    client = service.person()
    client.post("studies", json={"name": "a"})
    client.post("studies", json={"name": "a"})
    keys = [request.headers["Idempotency-Key"] for request in service.requests]
    assert keys[0] == keys[1] != keys[2]


def test_a_name_never_becomes_part_of_the_path_s_syntax():
    service = Service(httpx.Response(200, json={}))
    service.person().get("studies", "a/../b?c#d", "best")
    assert service.requests[0].url.raw_path == b"/api/v1/studies/a%2F..%2Fb%3Fc%23d/best"


def test_a_list_in_pages_is_read_to_its_end():
    first = httpx.Response(200, json={"items": [1, 2], "next_cursor": "c"})
    service = Service(first, httpx.Response(200, json={"items": [3], "next_cursor": None}))
    assert list(service.person().pages("studies", limit=2)) == [1, 2, 3]
    assert dict(service.requests[1].url.params) == {"limit": "2", "cursor": "c"}


@pytest.mark.parametrize("url", ["127.0.0.1:8787", "ftp://host", "http://", ""])
def test_a_url_that_is_none_is_refused_with_an_example(url: str):
    with pytest.raises(ValueError, match=r"such as http://127\.0\.0\.1:8787"):
        Client(url, "t")


@pytest.mark.parametrize(
    ("url", "trusts"),
    [("http://localhost:1", False), ("http://[::1]:1", False), ("https://tune.example", True)],
)
def test_a_proxy_of_the_environment_is_not_asked_for_the_loopback(
    url: str, trusts: bool, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("ALL_PROXY", "http://127.0.0.1:9")
    monkeypatch.delenv("NO_PROXY", raising=False)
    assert _made_with(url, monkeypatch)["trust_env"] is trusts


@pytest.mark.parametrize(
    ("url", "speaks"),
    [
        ("http://localhost:1", False),
        ("https://localhost:1", True),
        ("http://tune.example", True),
        ("http://localhost:1,https://localhost:2", True),
    ],
)
def test_authorities_are_read_unless_no_tls_can_be_spoken(
    url: str, speaks: bool, monkeypatch: pytest.MonkeyPatch
):
    context = _made_with(url, monkeypatch).get("verify")
    if speaks:
        assert context is None or context.get_ca_certs()  # None: as httpx does it
    else:
        assert (context.verify_mode, context.check_hostname) == (ssl.CERT_REQUIRED, True)
        assert context.get_ca_certs() == []


def test_an_authority_of_one_s_own_counts_on_this_machine_as_well(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    cert, _ = certificate(tmp_path)
    monkeypatch.setenv("SSL_CERT_FILE", str(cert))
    (trusted,) = _made_with("https://localhost:1", monkeypatch)["verify"].get_ca_certs()
    assert ("DNS", "localhost") in trusted["subjectAltName"]


def _made_with(url: str, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    made: list[dict[str, Any]] = []
    real: Callable[..., httpx.Client] = httpx.Client
    monkeypatch.setattr(httpx, "Client", lambda **options: made.append(options) or real(**options))
    Client(url, "t").close()
    return made[0]
