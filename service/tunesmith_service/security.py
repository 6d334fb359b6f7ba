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
import secrets
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any, Literal, TypeVar
from urllib.parse import urlsplit

from starlette.requests import Request

from tunesmith_service import wire
from tunesmith_service.commands import Lease
from tunesmith_service.errors import Forbidden, Unauthorized, Unprocessable
from tunesmith_service.places import Priority
from tunesmith_service.refusals import Refusals
from tunesmith_service.tokens import Token, hash_secret

CACHE_SECONDS = 1.0
"""A revoked token works at most this much longer."""

DEFAULT_PROJECT = 1

UNKNOWN = "this token is not known here; check that it was copied whole"

LOOPBACK_NAMES = frozenset({"localhost", "127.0.0.1", "::1"})
SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
_HOST = re.compile(r"(?P<name>\[[0-9A-Fa-f:.]+\]|[0-9A-Za-z._-]+)(:[0-9]{1,5})?")
CSRF_HEADER = "Tunesmith-CSRF"
UI_PREFIX = "/ui/"
HOST_COOKIE = "__Host-"

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
    session: str = ""  # which session, by its key; empty for a bearer token

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
    """What a route asks of a request; `role` None: nothing.

    `declared` is its priority where that does not follow from the rest (`priority`); None there: a request
    that costs next to nothing, which holds no place.
    """

    role: Role | None
    by: Literal["bearer", "session"] = "bearer"
    declared: Priority | Literal["by role"] | None = "by role"

    def priority(self, method: str) -> Priority | None:
        """What a request is worth under load."""
        if self.declared != "by role":
            return self.declared
        if self.role is Role.WORKER:
            return Priority.REPORT
        return Priority.DASHBOARD if self.role is None else usual_priority(method)


def usual_priority(method: str) -> Priority:
    """Of what people do."""
    return Priority.DASHBOARD if method in SAFE_METHODS else Priority.CREATE


def allow(
    role: Role,
    *,
    by: Literal["bearer", "session"] = "bearer",
    priority: Priority | Literal["by role"] = "by role",
) -> Callable[[Endpoint], Endpoint]:
    """Declare a route's policy; stands below the router's decorator."""
    return lambda endpoint: _declare(endpoint, Policy(role, by, priority))


def public(endpoint: Endpoint) -> Endpoint:
    """Declare that a route needs no token."""
    return _declare(endpoint, Policy(None))


def public_and_free(endpoint: Endpoint) -> Endpoint:
    """Declare that a route needs no token and costs next to nothing: it is answered under any load."""
    return _declare(endpoint, Policy(None, declared=None))


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
    seen_us: int = 0  # of a session: when it was last used, as the database knows


FindCredential = Callable[[str], Awaitable[Credential | None]]


class Gate:
    """Admits requests. What it remembers is a cache of at most `CACHE_SECONDS`.

    Args:
        find_token: by key id; find_session: by the hex hash of the cookie's secret.
        now_us: the service's clock.
        idle_us: a session ends when nothing has come from it for so long.
    """

    def __init__(
        self,
        find_token: FindCredential,
        find_session: FindCredential,
        now_us: Callable[[], int],
        idle_us: int,
    ) -> None:
        self._find_token, self._find_session, self._now_us = find_token, find_session, now_us
        self._idle_us = idle_us
        self._cache: dict[tuple[str, str], tuple[float, Credential | None]] = {}
        self._asked: dict[tuple[str, str], asyncio.Lock] = {}
        self._forgot_at = 0.0
        # When tokens (by id) and sessions (by hash) were last used, in µs, until the sweeper notes it.
        self._live: dict[str, bytes] = {}  # key id → hash of the secret; see `vouches`
        self.used: dict[int, int] = {}
        self.seen: dict[bytes, int] = {}
        self.cookie = ""  # set once the instance is known
        self.refusals = Refusals(now_us)

    async def admit(self, request: Request, policy: Policy) -> Who | None:
        """Who sent the request; None where the route is public.

        Raises: Unauthorized, Forbidden.
        """
        if policy.role is None:
            return None
        credential = await (self._bearer(request) if policy.by == "bearer" else self._session(request))
        who = credential.who
        is_over = credential.expires_us is not None and credential.expires_us <= self._now_us()
        if credential.revoked or is_over:
            if policy.by == "bearer":  # a page that was left open is nothing to note
                self.refusals.tell("revoked" if credential.revoked else "expired", who.key_id)
            word = "been revoked" if credential.revoked else "expired"
            raise Unauthorized(f"token {who.key_id} has {word}; ask for a new one")
        if not who.may(policy.role):
            raise Forbidden(f"this needs the role {policy.role}; token {who.key_id} has the role {who.role}")
        self.used[who.token_id] = self._now_us()
        return who

    async def _bearer(self, request: Request) -> Credential:
        text = _bearer(request.headers.get("authorization", ""))
        if text is None:
            raise Unauthorized("send a token: Authorization: Bearer tsm_…")
        token = Token.read(text)
        credential = await self._cached("token", token.key_id, self._find_token) if token else None
        if token is None or credential is None:
            raise Unauthorized(UNKNOWN)
        if not hmac.compare_digest(credential.secret_hash, token.secret_hash):
            self.refusals.tell("wrong secret", token.key_id)
            raise Unauthorized(UNKNOWN)
        return credential

    async def _session(self, request: Request) -> Credential:
        secret = request.cookies.get(self.cookie, "")
        if not own_path(request).startswith(UI_PREFIX) or not secret:
            raise Unauthorized("no session; run `tunesmith login` for a link")
        credential = await self._cached("session", hash_secret(secret).hex(), self._find_session)
        if credential is None or self._is_idle(credential):
            raise Unauthorized("the session has ended; run `tunesmith login` for a new link")
        csrf = csrf_of(secret)
        if request.method not in SAFE_METHODS and not hmac.compare_digest(
            unmasked(request.headers.get(CSRF_HEADER, "")).encode(), csrf.encode()
        ):
            raise Forbidden("the page is out of date; reload it and try again")
        self.seen[credential.secret_hash] = self._now_us()
        return replace(credential, who=replace(credential.who, csrf=csrf))

    def _is_idle(self, session: Credential) -> bool:
        last_us = max(session.seen_us, self.seen.get(session.secret_hash, 0))
        return last_us + self._idle_us <= self._now_us()

    def know(self, live: Mapping[str, bytes]) -> None:
        """The tokens there are, hash of the secret by key id, as just read."""
        self._live = dict(live)

    def vouches(self, authorization: str) -> bool:
        """Whether a request's header names a token that there was a minute ago: told without asking the
        database, for who may use what is reserved. It admits nobody."""
        text = _bearer(authorization)
        token = Token.read(text) if text else None
        known = self._live.get(token.key_id) if token else None
        return known is not None and token is not None and hmac.compare_digest(known, token.secret_hash)

    def forget(self) -> None:
        """What was ended through this server counts at once here; elsewhere within `CACHE_SECONDS`."""
        self._forgot_at = time.monotonic()
        self._cache.clear()

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
                if asked_at > self._forgot_at:
                    self._cache[slot] = known
                if len(self._cache) > 10_000:  # strangers guess key ids; ours are found again
                    self._cache.clear()
                    self._asked.clear()
        return known[1]


def _bearer(authorization: str) -> str | None:
    """The token in an Authorization header; None if that is of another kind."""
    scheme, _, text = authorization.partition(" ")
    return text.strip() if scheme.lower() == "bearer" else None


def masked(word: str) -> str:
    """A hexadecimal secret under a key of its own, which stands before it: another text each time, so that
    lengths of compressed pages tell nothing of it (BREACH). `unmasked` undoes it."""
    secret = bytes.fromhex(word)
    key = secrets.token_bytes(len(secret))
    return (key + bytes(a ^ b for a, b in zip(key, secret, strict=True))).hex()


def unmasked(sent: str) -> str:
    """
    >>> unmasked(masked("00ff")), unmasked("not one")
    ('00ff', '')
    """
    try:
        both = bytes.fromhex(sent)
    except ValueError:
        return ""
    half, is_odd = divmod(len(both), 2)
    return "" if is_odd else bytes(a ^ b for a, b in zip(both[:half], both[half:], strict=True)).hex()


def cookie_name(uuid: str, *, is_secure: bool, prefix: str) -> str:
    """What an instance's session cookie is called; browsers hold it to what the name begins with.

    `__Host-` asks for the whole host as its path. Behind a prefix the host is shared with others, who must
    not be sent the cookie, so there it is `__Secure-` and has a path.

    >>> cookie_name("5eed" * 8, is_secure=True, prefix="/lab")
    '__Secure-tunesmith-5eed5eed5eed'
    >>> cookie_name("5eed" * 8, is_secure=False, prefix="")
    'tunesmith-5eed5eed5eed'
    """
    kind = ("__Secure-" if prefix else HOST_COOKIE) if is_secure else ""
    return f"{kind}tunesmith-{uuid[:12]}"


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


def own_path(request: Request) -> str:
    """The path as our routes name it, without the prefix that a proxy adds."""
    path: str = request.scope["path"]
    return path.removeprefix(request.scope.get("root_path", ""))


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
    public = urlsplit(public_url)  # an origin has no path
    if origin.lower() not in (f"{scheme}://{host}".lower(), f"{public.scheme}://{public.netloc}".lower()):
        raise Forbidden(f"a page of {origin[:100]!r} may not change anything here")


def check_site(method: str, site: str | None) -> None:
    """Refuse a change that a browser says began on another site; what it says no page can forge.
    Programs, and browsers from before 2023, send no Sec-Fetch-Site."""
    if method not in SAFE_METHODS and site is not None and site.lower() != "same-origin":
        raise Forbidden(f"a page that is {site[:20]!r} to this one may not change anything here")
