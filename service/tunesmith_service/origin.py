"""Where a write comes from, for the audit log: whose request it is, its id and its address.

The front door says which request is being answered (`answering`); commands that leave a line in the log are
`Audited` and take note of it when they are built, so whoever submits one has nothing to hand on.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator, MutableMapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

_scope: ContextVar[MutableMapping[str, Any] | None] = ContextVar("scope", default=None)


@dataclass(frozen=True, slots=True)
class Origin:
    """A request. `actor` and `key_id` are empty where the route asks nobody who they are."""

    request_id: str
    address: str
    actor: str = ""
    key_id: str = ""


@contextmanager
def answering(scope: MutableMapping[str, Any]) -> Iterator[None]:
    """Inside, and in tasks begun there, `current` is this request; its `state` gets `who` once admitted."""
    before = _scope.set(scope)
    try:
        yield
    finally:
        _scope.reset(before)


def request_id() -> str | None:
    """That of the request that is being answered here."""
    scope = _scope.get()
    return None if scope is None else scope.get("state", {}).get("request_id")


def current() -> Origin | None:
    """The request that is being answered here, None if there is none."""
    scope = _scope.get()
    if scope is None:
        return None
    state = scope.get("state", {})
    request_id, who = str(state.get("request_id", "")), state.get("who")
    if who is None:
        return Origin(request_id, _address(scope))
    return Origin(request_id, _address(scope), who.actor, who.key_id)


def _address(scope: MutableMapping[str, Any]) -> str:
    """As it is, for one must be able to ask who had it; empty for a socket without one."""
    host = (scope.get("client") or ("",))[0]
    try:
        return str(ipaddress.ip_address(host))
    except ValueError:
        return ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Audited:
    """A command that leaves a line in the audit log, in the transaction that it is applied in."""

    origin: Origin | None = field(default_factory=current, compare=False, repr=False)
