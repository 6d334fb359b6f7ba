"""Who may do what. Deny by default: every route declares a policy, and one without fails at start-up.

    @router.get("/studies")
    @allow(Role.VIEWER)                      a bearer token with at least this role
    @allow(Role.VIEWER, by="session")        a browser's session, for pages under /ui/ alone
    @public                                  nobody needs to say who they are

People's roles contain one another: viewer < researcher < admin < operator. A worker's token opens the
worker routes and nothing else, and there the lease's secret is a second key. A token belongs to a
project; an operator's belongs to the instance. What a request may touch follows from its token and
from rows, never from its body.
"""

from __future__ import annotations

import asyncio
import hmac
import re
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Literal, TypeVar

from starlette.requests import Request

from tunesmith_service import wire
from tunesmith_service.commands import Lease
from tunesmith_service.errors import Forbidden, Unauthorized, Unprocessable
from tunesmith_service.tokens import Token, hash_secret

CACHE_SECONDS = 1.0
"""A revoked token works at most this much longer."""

DEFAULT_PROJECT = 1

LOOPBACK_NAMES = frozenset({"localhost", "127.0.0.1", "::1"})
SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
_HOST = re.compile(r"(?P<name>\[[0-9A-Fa-f:.]+\]|[0-9A-Za-z._-]+)(:[0-9]{1,5})?")
CSRF_HEADER = "Tunesmith-CSRF"
UI_PREFIX = "/ui/"

Endpoint = TypeVar("Endpoint", bound=Callable[..., Any])


class Role(StrEnum):
    VIEWER = "viewer"
    RESEARCHER = "researcher"
    WORKER = "worker"
    ADMIN = "admin"
    OPERATOR = "operator"


_LADDER = (Role.VIEWER, Role.RESEARCHER, Role.ADMIN, Role.OPERATOR)


@dataclass(frozen=True, slots=True)
class Who:
    """Whose request this is. `project_id` is None for an operator, who sees every project."""

    token_id: int
    key_id: str
    name: str
    role: Role
    project_id: int | None
    csrf: str = ""  # what a page of this session must send back with each change

    def may(self, needed: Role) -> bool:
        if needed is Role.WORKER or self.role is Role.WORKER:
            return needed is self.role
        return _LADDER.index(self.role) >= _LADDER.index(needed)

    def sees(self, project_id: int) -> bool:
        return self.project_id is None or self.project_id == project_id

    @property
    def home_project(self) -> int:
        """Where what this token creates belongs."""
        return DEFAULT_PROJECT if self.project_id is None else self.project_id

    @property
    def actor(self) -> str:
        """How the event log names them."""
        return f"{self.role}:{self.name[:100]}"


@dataclass(frozen=True, slots=True)
class Policy:
    """What a route asks of a request; `role` None: nothing."""

    role: Role | None
    by: Literal["bearer", "session"] = "bearer"


def allow(role: Role, *, by: Literal["bearer", "session"] = "bearer") -> Callable[[Endpoint], Endpoint]:
    """Declare a route's policy; stands below the router's decorator."""
    return lambda endpoint: _declare(endpoint, Policy(role, by))


def public(endpoint: Endpoint) -> Endpoint:
    """Declare that a route needs no token."""
    return _declare(endpoint, Policy(None))


def _declare(endpoint: Endpoint, policy: Policy) -> Endpoint:
    endpoint.tunesmith_policy = policy  # type: ignore[attr-defined]
    return endpoint


def policy_of(endpoint: Callable[..., Any]) -> Policy | None:
    return getattr(endpoint, "tunesmith_policy", None)


# --- who is it ------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Credential:
    """A row of `tokens`, or of a session joined to its token; `secret_hash` is what must match."""

    who: Who
    secret_hash: bytes
    expires_us: int | None
    revoked: bool


FindCredential = Callable[[str], Awaitable[Credential | None]]


class Gate:
    """Admits requests. What it remembers is a cache of at most `CACHE_SECONDS`.

    Args:
        find_token: by key id; find_session: by the hex hash of the cookie's secret.
        now_us: the service's clock.
    """

    def __init__(
        self, find_token: FindCredential, find_session: FindCredential, now_us: Callable[[], int]
    ) -> None:
        self._find_token, self._find_session, self._now_us = find_token, find_session, now_us
        self._cache: dict[tuple[str, str], tuple[float, Credential | None]] = {}
        self._asked: dict[tuple[str, str], asyncio.Lock] = {}
        self.used: dict[int, int] = {}  # token id → µs of its last use, until the sweeper notes it
        self.cookie = ""  # set once the instance is known

    async def admit(self, request: Request, policy: Policy) -> Who | None:
        """Who sent the request; None where the route is public.

        Raises: Unauthorized, Forbidden.
        """
        if policy.role is None:
            return None
        credential = await (self._bearer(request) if policy.by == "bearer" else self._session(request))
        if credential.revoked:
            raise Unauthorized(f"token {credential.who.key_id} has been revoked; ask for a new one")
        if credential.expires_us is not None and credential.expires_us <= self._now_us():
            raise Unauthorized(f"token {credential.who.key_id} has expired; ask for a new one")
        who = credential.who
        if not who.may(policy.role):
            raise Forbidden(f"this needs the role {policy.role}; token {who.key_id} has the role {who.role}")
        self.used[who.token_id] = self._now_us()
        return who

    async def _bearer(self, request: Request) -> Credential:
        header = request.headers.get("authorization", "")
        scheme, _, text = header.partition(" ")
        if scheme.lower() != "bearer":
            raise Unauthorized("send a token: Authorization: Bearer tsm_…")
        token = Token.read(text.strip())
        credential = await self._cached("token", token.key_id, self._find_token) if token else None
        if (
            token is None
            or credential is None
            or not hmac.compare_digest(credential.secret_hash, token.secret_hash)
        ):
            raise Unauthorized("this token is not known here; check that it was copied whole")
        return credential

    async def _session(self, request: Request) -> Credential:
        secret = request.cookies.get(self.cookie, "")
        if not request.url.path.startswith(UI_PREFIX) or not secret:
            raise Unauthorized("no session; run `tunesmith login` for a link")
        credential = await self._cached("session", hash_secret(secret).hex(), self._find_session)
        if credential is None:
            raise Unauthorized("the session has ended; run `tunesmith login` for a new link")
        csrf = csrf_of(secret)
        if request.method not in SAFE_METHODS and not hmac.compare_digest(
            request.headers.get(CSRF_HEADER, "").encode(), csrf.encode()
        ):
            raise Forbidden("the page is out of date; reload it and try again")
        who = credential.who
        signed = Who(who.token_id, who.key_id, who.name, who.role, who.project_id, csrf)
        return Credential(signed, credential.secret_hash, credential.expires_us, credential.revoked)

    async def _cached(self, kind: str, key: str, find: FindCredential) -> Credential | None:
        slot = (kind, key)
        known = self._cache.get(slot)
        if known is not None and time.monotonic() - known[0] < CACHE_SECONDS:
            return known[1]
        async with self._asked.setdefault(slot, asyncio.Lock()):  # one look-up however many ask
            known = self._cache.get(slot)
            if known is None or time.monotonic() - known[0] >= CACHE_SECONDS:
                asked_at = time.monotonic()
                known = (asked_at, await find(key))
                self._cache[slot] = known
                if len(self._cache) > 10_000:  # strangers guess key ids; ours are found again
                    self._cache.clear()
                    self._asked.clear()
        return known[1]


def csrf_of(session_secret: str) -> str:
    """What pages of a session send in `CSRF_HEADER`; another site cannot know it."""
    return hash_secret(f"csrf:{session_secret}").hex()[:32]


# --- the lease, a worker's second key -------------------------------------------------------------


def lease_of(request: Request, trial_id: int) -> Lease:
    """The lease that a worker's write names in its header. Raises Unprocessable."""
    parts = request.headers.get(wire.LEASE_HEADER, "").split(".")
    if len(parts) != 3 or not all(p.isascii() and p.isdecimal() and len(p) < 10 for p in parts[:2]):
        raise Unprocessable(
            f"send the lease as {wire.LEASE_HEADER}: incarnation.attempt.secret, such as 1.2.0f3c…"
        )
    return Lease(trial_id, int(parts[0]), int(parts[1]), hash_secret(parts[2]))


# --- browsers -------------------------------------------------------------------------------------


def check_host(host: str, allowed: frozenset[str]) -> None:
    """Refuse a Host header that is not ours: a page elsewhere may have pointed its name at us."""
    found = _HOST.fullmatch(host)
    if found is None or found["name"].strip("[]").lower() not in allowed:
        raise Forbidden(
            f"this server does not answer for the host {host[:100]!r}; "
            "if it should, start it with --allowed-hosts"
        )


def check_origin(method: str, origin: str | None, *, scheme: str, host: str, public_url: str) -> None:
    """Refuse a change that a page of another origin asked for. Programs send no Origin."""
    if method in SAFE_METHODS or origin is None:
        return
    if origin.lower() not in (f"{scheme}://{host}".lower(), public_url.rstrip("/").lower()):
        raise Forbidden(f"a page of {origin[:100]!r} may not change anything here")
