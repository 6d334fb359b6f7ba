"""Sends one message to where a target says: a webhook with a signature, Slack's shape, or e-mail.

A receiver of a webhook verifies `Tunesmith-Signature`; docs/notifications.md shows how.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
import smtplib
import ssl
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from email.message import EmailMessage
from email.utils import formatdate
from typing import Any
from urllib.parse import urlsplit

import httpx

from tunesmith_service.errors import Unprocessable
from tunesmith_service.settings import Settings


class NotDeliveredError(Exception):
    """Nobody took it; the sentence says why."""


def check(kind: str, destination: str, settings: Settings) -> None:
    """Raises: Unprocessable for somewhere that messages cannot go, or must not."""
    if kind == "email":
        if not settings.smtp_host:
            raise Unprocessable("this service sends no e-mail: start it with --smtp-host and --smtp-from")
        name, at, domain = destination.partition("@")
        if not (name and at and domain) or any(c.isspace() or c in ",;<>" for c in destination):
            raise Unprocessable(
                f"an e-mail goes to one address, such as lab@example.org, got {destination!r}"
            )
        return
    try:
        parts = urlsplit(destination)
    except ValueError as e:
        raise Unprocessable(f"{destination!r} is no URL: {e}") from e
    if parts.scheme not in ("http", "https") or not parts.hostname or "@" in parts.netloc or parts.fragment:
        raise Unprocessable(
            "a webhook goes to a URL, such as https://example.org/hook, without a password in it"
        )
    if settings.notify_hosts and parts.hostname.lower() not in settings.notify_hosts:
        allowed = ", ".join(settings.notify_hosts)
        raise Unprocessable(f"--notify-hosts allows {allowed}, not {parts.hostname}")


def signature(secret: str, timestamp: str, body: bytes) -> str:
    """HMAC-SHA256 over `timestamp.body`, in hex."""
    return hmac.new(secret.encode(), timestamp.encode() + b"." + body, hashlib.sha256).hexdigest()


class Sender:
    """Redirects are not followed, and of what is answered only the status counts.

    Args:
        clock: in seconds; how long a mail server takes.
    """

    def __init__(self, settings: Settings, clock: Callable[[], float] = time.monotonic) -> None:
        self._settings, self._clock = settings, clock
        self._made: httpx.AsyncClient | None = None

    @property
    def _http(self) -> httpx.AsyncClient:
        """Made when first needed: reading the certificates takes a while, and most services send nothing."""
        if self._made is None:
            self._made = httpx.AsyncClient(
                timeout=self._settings.notify_seconds, follow_redirects=False,
                headers={"User-Agent": "tunesmith"},
            )  # fmt: skip
        return self._made

    async def aclose(self) -> None:
        if self._made is not None:
            await self._made.aclose()

    async def send(self, notice: Mapping[str, Any], now_us: int) -> str:
        """Returns: what was answered. Raises: NotDeliveredError."""
        try:
            check(notice["kind"], notice["destination"], self._settings)
            if notice["kind"] == "email":  # waited for: a thread that is left would send the letter yet
                return await asyncio.to_thread(self._mail, notice)
            async with asyncio.timeout(self._settings.notify_seconds):
                return await self._post(notice, now_us)
        except Unprocessable as e:
            raise NotDeliveredError(e.detail) from e
        except TimeoutError as e:
            raise NotDeliveredError(f"no answer within {self._settings.notify_seconds:g} s") from e
        except (httpx.HTTPError, httpx.InvalidURL, smtplib.SMTPException, OSError, ValueError) as e:
            raise NotDeliveredError(f"{type(e).__name__}: {e}"[:500]) from e

    async def _post(self, notice: Mapping[str, Any], now_us: int) -> str:
        headers = {"Content-Type": "application/json", "Tunesmith-Delivery": notice["key"]}
        if notice["kind"] == "slack":
            body = json.dumps({"text": f"{notice['body']['text']}\n{notice['body']['url']}"}).encode()
        else:
            body = json.dumps({"id": notice["key"], **notice["body"]}).encode()
            at = str(now_us // 1_000_000)
            signed = signature(notice["secret"], at, body)
            headers |= {"Tunesmith-Timestamp": at, "Tunesmith-Signature": f"sha256={signed}"}
        # the answer's body is left unread: it is a stranger's, and as long as they like
        async with self._http.stream("POST", notice["destination"], content=body, headers=headers) as answer:
            if not answer.is_success:
                raise NotDeliveredError(f"answered {answer.status_code}")
            return f"answered {answer.status_code}"

    def _mail(self, notice: Mapping[str, Any]) -> str:
        """Not sent once its time is up; what is on its way by then is waited for, since another try would
        send it again."""
        s = self._settings
        until = self._clock() + s.notify_seconds

        def left() -> float:
            if (seconds := until - self._clock()) <= 0:
                raise TimeoutError
            return seconds

        letter = EmailMessage()
        letter["From"], letter["To"] = s.smtp_from, notice["destination"]
        letter["Subject"] = "Tunesmith: " + " ".join(notice["body"]["text"].split())[:150]
        letter["Date"] = formatdate()
        letter["Message-ID"] = f"<{notice['key']}@tunesmith>"
        letter.set_content(f"{notice['body']['text']}\n\n{notice['body']['url']}\n")
        trust = ssl.create_default_context()
        if s.smtp_security == "tls":
            line: smtplib.SMTP = smtplib.SMTP_SSL(s.smtp_host, s.smtp_port, timeout=left(), context=trust)
        else:
            line = smtplib.SMTP(s.smtp_host, s.smtp_port, timeout=left())
        try:
            if s.smtp_security == "starttls":
                left()
                line.starttls(context=trust)
            if s.smtp_user:
                left()
                line.login(s.smtp_user, s.smtp_password)
            left()
            line.send_message(letter)
            with suppress(OSError, smtplib.SMTPException):
                line.quit()
        finally:
            line.close()
        return f"taken by {s.smtp_host}"
