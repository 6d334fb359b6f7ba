"""How a browser gets in: a token's holder asks for a one-time code, and the page /ui/login exchanges it
by POST for a session, a cookie that counts under /ui/ alone.

    code = await new_code(service, who.token_id)        in POST /api/v1/login-codes, and `tunesmith up`
    secret = await redeem(service, code)                in POST /ui/login
    set_cookie(response, service, secret)
    await end(service, secret); clear_cookie(response, service)        in POST /ui/logout
"""

from __future__ import annotations

import secrets

from starlette.responses import Response

from tunesmith_service.clock import SECOND
from tunesmith_service.commands import CreateLoginCode, EndSession, RedeemLoginCode
from tunesmith_service.core import Service
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


async def redeem(service: Service, code: str) -> str:
    """Exchange a code, once, for a session's secret. Raises Refused if it is unknown, used or too old."""
    secret = secrets.token_hex(32)
    ends_us = service.clock.now_us() + int(service.settings.session_seconds * SECOND)
    await service.writer.submit(RedeemLoginCode(hash_secret(code), hash_secret(secret), ends_us))
    return secret


def set_cookie(response: Response, service: Service, secret: str) -> None:
    """Give the browser its session. The name is this instance's own: cookies know no ports."""
    response.set_cookie(
        service.gate.cookie,
        secret,
        max_age=int(service.settings.session_seconds),
        path=_cookie_path(service),
        secure=_is_host(service),
        httponly=True,
        samesite="strict",
    )


async def end(service: Service, secret: str) -> None:
    """The session counts no more (within a second: see `security.CACHE_SECONDS`)."""
    await service.writer.submit(EndSession(hash_secret(secret)))


def clear_cookie(response: Response, service: Service) -> None:
    response.delete_cookie(
        service.gate.cookie,
        path=_cookie_path(service),
        secure=_is_host(service),
        httponly=True,
        samesite="strict",
    )


def _is_host(service: Service) -> bool:
    return service.gate.cookie.startswith("__Host-")


def _cookie_path(service: Service) -> str:
    """The pages alone; but the prefix __Host- asks for the root, and there the gate looks at the path."""
    return "/" if _is_host(service) else "/ui"
