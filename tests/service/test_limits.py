"""Buckets by key: how often somebody may do something."""

from __future__ import annotations

import pytest
from starlette.requests import Request
from tunesmith_service import limits
from tunesmith_service.limits import Limiter, address_of


class Hand:
    """A clock turned by hand, in seconds."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_a_burst_passes_and_then_one_every_so_often():
    clock = Hand()
    limiter = Limiter(burst=3, per_minute=6, monotonic=clock)
    assert [limiter.take("a") for _ in range(5)] == [0, 0, 0, 10, 10]
    assert limiter.take("b") == 0  # another's own
    clock.now += 9
    assert limiter.take("a") == 1
    clock.now += 1
    assert [limiter.take("a") for _ in range(2)] == [0, 10]
    clock.now += 3600
    assert [limiter.take("a") for _ in range(4)] == [0, 0, 0, 10]


def test_who_is_refused_waits_no_longer_for_asking():
    clock = Hand()
    limiter = Limiter(burst=1, per_minute=6, monotonic=clock)
    assert limiter.take("a") == 0
    for _ in range(9):
        clock.now += 1
        assert limiter.take("a") > 0
    clock.now += 1
    assert limiter.take("a") == 0


def test_strangers_fill_no_memory_and_the_quiet_ones_are_forgotten_first(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(limits, "MOST_KEYS", 3)
    limiter = Limiter(burst=1, per_minute=1, monotonic=Hand())
    for key in "abac":
        limiter.take(key)
    for key in "d":
        limiter.take(key)
    assert limiter.take("a") > 0  # came after b
    assert limiter.take("b") == 0


@pytest.mark.parametrize(
    ("host", "address"),
    [
        ("10.0.0.7", "10.0.0.7"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("2001:db8:1:2:ffff::1", "2001:db8:1:2::/64"),
        ("::ffff:10.0.0.7", "10.0.0.7"),
        ("testclient", "testclient"),
        ("x" * 1000, "x" * 64),
    ],
)
def test_an_address_of_ipv6_counts_by_its_network(host: str, address: str):
    assert address_of(Request({"type": "http", "client": (host, 1)})) == address


def test_a_request_over_a_unix_socket_has_no_address():
    assert address_of(Request({"type": "http", "client": None})) == ""
