"""Tokens, login codes and sessions. Secrets are made by the caller; only hashes come here."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import bindparam, delete, insert, or_, select, update
from sqlalchemy.dialects import postgresql, sqlite

from tunesmith_service.admission import (
    CreateLoginCode,
    CreateToken,
    EndSession,
    EndSessions,
    NoteRefusal,
    RedeemLoginCode,
    RevokeToken,
    TouchSessions,
    TouchTokens,
)
from tunesmith_service.clock import SECOND
from tunesmith_service.errors import AlreadyCreated, LoginCodeInvalid, NotFound, Refused
from tunesmith_service.tables import login_codes, sessions, tokens
from tunesmith_service.tx import Tx

TOUCH_EVERY_US = 60 * SECOND


def apply_create_token(tx: Tx, commands: Sequence[CreateToken], now_us: int) -> list[int | Refused]:
    return [_create_token(tx, c, now_us) for c in commands]


def _create_token(tx: Tx, c: CreateToken, now_us: int) -> int | Refused:
    if tx.execute(select(tokens.c.id).where(tokens.c.key_id == c.key_id)).first() is not None:
        return AlreadyCreated(
            f"Token {c.key_id} exists already, and a secret is never shown twice; create another."
        )
    made = insert(tokens).values(
        project_id=c.project_id,
        key_id=c.key_id,
        secret_hash=c.secret_hash,
        role=c.role,
        name=c.name,
        created_us=now_us,
        expires_us=c.expires_us,
    )
    return int(tx.execute(made.returning(tokens.c.id)).scalar_one())


def apply_revoke_token(tx: Tx, commands: Sequence[RevokeToken], now_us: int) -> list[Refused | None]:
    """Revoking again changes nothing. The token's sessions end with it."""
    return [_revoke_token(tx, c, now_us) for c in commands]


def _revoke_token(tx: Tx, c: RevokeToken, now_us: int) -> Refused | None:
    token = tx.execute(select(tokens.c.id).where(tokens.c.key_id == c.key_id)).one_or_none()
    if token is None:
        return NotFound(f"There is no token {c.key_id}; `tunesmith token list` shows those there are.")
    tx.execute(
        update(tokens).where(tokens.c.id == token.id, tokens.c.revoked_us.is_(None)).values(revoked_us=now_us)
    )
    _end_sessions(tx, [token.id])
    return None


def _end_sessions(tx: Tx, token_ids: Sequence[int]) -> None:
    """Of tokens, with the codes that would open more."""
    tx.execute(delete(sessions).where(sessions.c.token_id.in_(token_ids)))
    unused = (login_codes.c.token_id.in_(token_ids), login_codes.c.used_us.is_(None))
    tx.execute(delete(login_codes).where(*unused))


_TOUCH = (
    update(tokens)
    .where(
        tokens.c.id == bindparam("b_id"),
        or_(tokens.c.last_used_us.is_(None), tokens.c.last_used_us < bindparam("used_us") - TOUCH_EVERY_US),
    )
    .values(last_used_us=bindparam("used_us"))
)


def apply_touch_tokens(tx: Tx, commands: Sequence[TouchTokens], now_us: int) -> list[None]:
    newest: dict[int, int] = {}
    for c in commands:
        for token_id, at_us in c.used.items():
            newest[token_id] = max(at_us, newest.get(token_id, 0))
    if newest:
        tx.execute(_TOUCH, [{"b_id": i, "used_us": at} for i, at in sorted(newest.items())])
    return [None] * len(commands)


def apply_create_login_code(tx: Tx, commands: Sequence[CreateLoginCode], now_us: int) -> list[None]:
    """Codes and sessions that have run out leave on the way."""
    tx.execute(delete(login_codes).where(login_codes.c.expires_us < now_us))
    tx.execute(delete(sessions).where(sessions.c.expires_us < now_us))
    new = [{"code_hash": c.code_hash, "token_id": c.token_id, "expires_us": c.expires_us} for c in commands]
    make = sqlite.insert if tx.conn.dialect.name == "sqlite" else postgresql.insert
    tx.execute(make(login_codes).on_conflict_do_nothing(), new)
    return [None] * len(commands)


def apply_redeem_login_code(tx: Tx, commands: Sequence[RedeemLoginCode], now_us: int) -> list[Refused | None]:
    return [_redeem(tx, c, now_us) for c in commands]


def _redeem(tx: Tx, c: RedeemLoginCode, now_us: int) -> Refused | None:
    good = (
        login_codes.c.code_hash == c.code_hash,
        login_codes.c.used_us.is_(None),
        login_codes.c.expires_us > now_us,
    )
    used = update(login_codes).where(*good).values(used_us=now_us).returning(login_codes.c.token_id)
    token_id = tx.execute(used).scalar_one_or_none()
    if token_id is None:
        return LoginCodeInvalid(
            "This login link was used or has run out; `tunesmith login` prints a new one."
        )
    if c.replaces is not None:  # a thief who kept the old cookie is out, too
        tx.execute(delete(sessions).where(sessions.c.session_hash == c.replaces))
    session = {"session_hash": c.session_hash, "token_id": token_id, "browser": c.browser}
    times = {"begun_us": now_us, "last_seen_us": now_us, "expires_us": c.expires_us}
    tx.execute(insert(sessions).values(session | times))
    return None


_SEE = (
    update(sessions)
    .where(
        sessions.c.session_hash == bindparam("b_hash"),
        sessions.c.last_seen_us < bindparam("seen_us") - TOUCH_EVERY_US,
    )
    .values(last_seen_us=bindparam("seen_us"))
)


def apply_touch_sessions(tx: Tx, commands: Sequence[TouchSessions], now_us: int) -> list[None]:
    newest: dict[bytes, int] = {}
    for c in commands:
        for session_hash, at_us in c.seen.items():
            newest[session_hash] = max(at_us, newest.get(session_hash, 0))
    if newest:
        tx.execute(_SEE, [{"b_hash": h, "seen_us": at} for h, at in sorted(newest.items())])
    idle_since_us = min(c.idle_since_us for c in commands)
    tx.execute(delete(sessions).where(sessions.c.last_seen_us < idle_since_us))
    return [None] * len(commands)


def apply_end_session(tx: Tx, commands: Sequence[EndSession], now_us: int) -> list[None]:
    tx.execute(delete(sessions).where(sessions.c.session_hash.in_([c.session_hash for c in commands])))
    return [None] * len(commands)


def apply_end_sessions(tx: Tx, commands: Sequence[EndSessions], now_us: int) -> list[None]:
    _end_sessions(tx, sorted({c.token_id for c in commands}))
    return [None] * len(commands)


def apply_note_refusal(tx: Tx, commands: Sequence[NoteRefusal], now_us: int) -> list[None]:
    """The audit log is all that it is for."""
    return [None] * len(commands)
