"""The same request again: what an Idempotency-Key was answered."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from sqlalchemy import insert, select

from tunesmith_service.errors import KeyReused, Refused
from tunesmith_service.tables import idempotency
from tunesmith_service.tx import Tx


@dataclass(frozen=True, slots=True)
class Idempotency:
    """A person's Idempotency-Key: same key and body, stored answer; other body, refused key_reused."""

    scope: str
    key: str
    body_hash: bytes


def stored(tx: Tx, asked: Idempotency | None) -> Any | Refused | None:
    """What this key was answered, a refusal if it came with another body, None if it is new."""
    if asked is None:
        return None
    row = tx.execute(
        select(idempotency).where(idempotency.c.scope == asked.scope, idempotency.c.key == asked.key)
    ).one_or_none()
    if row is None:
        return None
    if row.body_hash != asked.body_hash:
        return KeyReused(
            f"Idempotency-Key {asked.key} was used with another body; use a new key for a new request."
        )
    return row.answer


def store(tx: Tx, asked: Idempotency | None, answer: Any, now_us: int) -> None:
    if asked is not None:
        tx.execute(
            insert(idempotency).values(
                scope=asked.scope, key=asked.key, body_hash=asked.body_hash, answer=answer, created_us=now_us
            )
        )
