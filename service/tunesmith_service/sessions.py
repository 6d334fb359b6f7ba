"""How a browser gets in: a token's holder asks for a one-time code, and the page /ui/login exchanges it
by POST for a session, a cookie that counts under /ui/ alone.

    code = await new_code(service, who.token_id)        in POST /api/v1/login-codes, and `tunesmith up`
    secret = await redeem(service, code)                in POST /ui/login
    set_cookie(response, service, secret)
    await end(service, secret); clear_cookie(response, service)        in POST /ui/logout

A session ends by logging out, with its token, when a page ends it by its key, after `session_seconds`, and
after `session_idle_seconds` without a request. A page that is looked at makes requests: it is in use.
"""

from __future__ import annotations

import secrets
from dataclasses import replace

from starlette.responses import Response

from tunesmith_service import session_store
from tunesmith_service.admission import CreateLoginCode, EndSession, EndSessions, RedeemLoginCode
from tunesmith_service.browsers import browser_of
from tunesmith_service.clock import SECOND
from tunesmith_service.core import Service
from tunesmith_service.errors import NotFound
from tunesmith_service.security import HOST_COOKIE
from tunesmith_service.session_store import Session
from tunesmith_service.tokens import hash_secret

LOGIN_PATH = "/ui/login"


async def new_code(service: Service, token_id: int) -> str:
    """A code that opens one session with this token's rights, within `login_code_seconds`."""
    code = secrets.token_urlsafe(32)
    ends_us = service.clock.now_us() + int(service.settings.login_code_seconds * SECOND)
    await service.writer.submit(CreateLoginCode(hash_secret(code), token_id, ends_us))
    return code


def login_link(address: str, code: str) -> str:
    """The code stands behind the #, which browsers send to nobody: it gets into no log on the way."""
    return f"{address.rstrip('/')}{LOGIN_PATH}#code={code}"


async def redeem(service: Service, code: str, *, user_agent: str = "", before: str = "") -> str:
    """Exchange a code, once, for a session's secret.

    Args:
        before: the secret that the browser has had so far: its session ends, and the new one is new.
    Raises: Refused if the code is unknown, used or too old.
    """
    secret = secrets.token_hex(32)
    ends_us = service.clock.now_us() + int(service.settings.session_seconds * SECOND)
    replaces = hash_secret(before) if before else None
    await service.writer.submit(
        RedeemLoginCode(hash_secret(code), hash_secret(secret), ends_us, browser_of(user_agent), replaces)
    )
    service.gate.forget()
    return secret


def set_cookie(response: Response, service: Service, secret: str) -> None:
    """Give the browser its session. The name is this instance's own: cookies know no ports."""
    response.set_cookie(
        service.gate.cookie,
        secret,
        max_age=int(service.settings.session_seconds),
        path=_cookie_path(service),
        secure=_is_secure(service),
        httponly=True,
        samesite="strict",
    )


async def end(service: Service, secret: str) -> None:
    """The session counts no more."""
    await service.writer.submit(EndSession(hash_secret(secret)))
    service.gate.forget()


async def listed(service: Service, token_id: int) -> list[Session]:
    """A token's open sessions, the one that was used last first."""
    idle_us = int(service.settings.session_idle_seconds * SECOND)
    found = await service.read(session_store.of_token, token_id, service.clock.now_us(), idle_us)
    seen = service.gate.seen  # newer than what is written
    now = [replace(s, last_seen_us=max(s.last_seen_us, seen.get(s.session_hash, 0))) for s in found]
    return sorted(now, key=lambda s: s.last_seen_us, reverse=True)


async def end_by_key(service: Service, token_id: int, key: str) -> None:
    """End one of a token's sessions. Raises NotFound."""
    found = next((s for s in await listed(service, token_id) if s.key == key), None)
    if found is None:
        raise NotFound(f"no session {key} of this token; it has ended already, or is another's")
    await service.writer.submit(EndSession(found.session_hash))
    service.gate.forget()


async def end_all(service: Service, token_id: int) -> None:
    """Log out everywhere: the token itself goes on working, codes that nobody has used do not."""
    await service.writer.submit(EndSessions(token_id))
    service.gate.forget()


def clear_cookie(response: Response, service: Service) -> None:
    response.delete_cookie(
        service.gate.cookie,
        path=_cookie_path(service),
        secure=_is_secure(service),
        httponly=True,
        samesite="strict",
    )


def _is_secure(service: Service) -> bool:
    return service.gate.cookie.startswith("__")


def _cookie_path(service: Service) -> str:
    """The pages alone; but the prefix __Host- asks for the root, and there the gate looks at the path."""
    return "/" if service.gate.cookie.startswith(HOST_COOKIE) else f"{service.settings.prefix}/ui"
