"""What lets people and workers in, as frozen values: tokens, login codes, sessions; see `commands`.

Secrets are made by the caller; only hashes come here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from tunesmith_service.clock import SECOND
from tunesmith_service.origin import Audited

REFUSED_EVERY_US = 3600 * SECOND
WhyRefused = Literal["revoked", "expired", "wrong secret", "no such code"]
"""A token that counts no more, or has another secret; a login code that is unknown, used or too old."""

# --- tokens ---------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class CreateToken(Audited):
    """Outcome: token row id. The secret itself is made by the caller and never stored."""

    project_id: int | None
    name: str
    role: str
    key_id: str
    secret_hash: bytes
    expires_us: int | None
    actor: str


@dataclass(frozen=True, slots=True)
class RevokeToken(Audited):
    """End a token, its sessions and its unused login codes. Outcome: None, or refused (not_found)."""

    key_id: str
    actor: str


@dataclass(frozen=True, slots=True)
class TouchTokens:
    """Note when tokens were last used; at most once a minute each. Outcome: None."""

    used: Mapping[int, int] = field(default_factory=dict)  # token row id → us


# --- browsers -------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class CreateLoginCode(Audited):
    """A one-time code for the dashboard's login link. Outcome: None."""

    code_hash: bytes
    token_id: int
    expires_us: int


@dataclass(frozen=True, slots=True)
class RedeemLoginCode(Audited):
    """Exchange a code for a session, once. The session that the browser had before ends with it.
    Outcome: None, or refused (login_code_invalid)."""

    code_hash: bytes
    session_hash: bytes
    expires_us: int
    browser: str = ""  # such as "Firefox on Linux"; at most 64 characters
    replaces: bytes | None = None  # hash of the session that the browser had


@dataclass(frozen=True, slots=True)
class TouchSessions:
    """Note when sessions were last seen, at most once a minute each, and forget those that nobody has
    used since `idle_since_us`. Outcome: None."""

    seen: Mapping[bytes, int]  # hash → us
    idle_since_us: int


@dataclass(frozen=True, slots=True)
class EndSession(Audited):
    """Log out. Outcome: None, also if there is no such session."""

    session_hash: bytes


@dataclass(frozen=True, slots=True)
class EndSessions(Audited):
    """Log out everywhere: all sessions of a token, and login codes that nobody has used yet.
    Outcome: None."""

    token_id: int


@dataclass(frozen=True, slots=True)
class NoteRefusal(Audited):
    """Somebody was refused, so many times since the last note. Changes nothing: the audit log has it, at most
    once in REFUSED_EVERY_US for each token, and for all login codes. Outcome: None."""

    key_id: str  # empty for a login code
    why: WhyRefused
    tries: int

    @property
    def actor(self) -> str:
        """Empty for the token's own: whoever has its secret."""
        return "" if self.why in ("revoked", "expired") else "stranger"


# --- the audit log --------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class TrimAudit(Audited):
    """Remove what the audit log holds from before `older_than_us`. Outcome: the last entry that is gone, by
    number and hash."""

    older_than_us: int
