"""The reads about browsers' sessions."""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import Connection, case, select

from tunesmith_service import tables
from tunesmith_service.db import columns, values

KEY_CHARACTERS = 16


def key_of(session_hash: bytes) -> str:
    """What names a session in public: the beginning of its hash, which opens nothing."""
    return session_hash.hex()[:KEY_CHARACTERS]


@dataclass(frozen=True, slots=True)
class Behind:
    """A session's token, and what bounds the session: `expires_us` is the session's end or the token's,
    whichever is first."""

    id: int
    project_id: int | None
    key_id: str
    role: str
    name: str
    revoked_us: int | None
    session_hash: bytes
    last_seen_us: int
    expires_us: int

    @property
    def key(self) -> str:
        return key_of(self.session_hash)


def behind(conn: Connection, session_hash: bytes) -> Behind | None:
    t, s = tables.tokens, tables.sessions
    first = case((t.c.expires_us < s.c.expires_us, t.c.expires_us), else_=s.c.expires_us).label("expires_us")
    of_token = (t.c.id, t.c.project_id, t.c.key_id, t.c.role, t.c.name, t.c.revoked_us)
    wanted = (
        select(*of_token, s.c.session_hash, s.c.last_seen_us, first)
        .join(s, s.c.token_id == t.c.id)
        .where(s.c.session_hash == session_hash)
    )
    return next(iter(values(conn, Behind, wanted)), None)


@dataclass(frozen=True, slots=True)
class Session:
    """A row of `sessions`."""

    session_hash: bytes
    begun_us: int
    last_seen_us: int
    expires_us: int
    browser: str

    @property
    def key(self) -> str:
        return key_of(self.session_hash)


def of_token(conn: Connection, token_id: int, now_us: int, idle_us: int) -> list[Session]:
    """Those that are open, the one that was seen last first."""
    s = tables.sessions
    wanted = (
        select(*columns(Session, s))
        .where(s.c.token_id == token_id, s.c.expires_us > now_us, s.c.last_seen_us > now_us - idle_us)
        .order_by(s.c.last_seen_us.desc(), s.c.begun_us.desc(), s.c.session_hash)
    )
    return values(conn, Session, wanted)
