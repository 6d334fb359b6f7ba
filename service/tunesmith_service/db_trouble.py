"""What a database says when it cannot be used, as a sentence and what to do about it."""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass
from typing import Literal

from sqlalchemy import make_url
from sqlalchemy.engine import URL
from sqlalchemy.exc import DBAPIError

from tunesmith_service import db

_RESTORE = "keep a copy of it; the newest good backup can be restored beside it (docs/operating.md)"
_MIGRATE = "`tunesmith migrate` brings it up to date, once what it names is the right database"
_RIGHTS = "see that this user may read and write the file and its folder"
_ROOM = "free some space where the database lies"
_AWAY = "see that PostgreSQL runs, and that --database-url has its host, port, user, password and name right"

_DAMAGE = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_IOERR)
_BY_CODE = {
    **dict.fromkeys((sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_PERM), _RIGHTS),
    **dict.fromkeys((sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED), "end what else has the file open"),
}
_BY_STATE = {
    "42501": "give its user the right to create and change tables there",
    "42P01": _MIGRATE,  # no such table
    "42703": _MIGRATE,  # no such column
    "53100": _ROOM,
}


@dataclass(frozen=True, slots=True)
class Trouble:
    """Attributes:
    kind: "away" if it may answer later, "damage" if what is stored is not what was written.
    """

    kind: Literal["away", "damage", "other"]
    said: str
    todo: str


def trouble_of(error: BaseException, url: str | URL) -> Trouble | None:
    """What an error of the database at `url` means; None for one that is a fault of ours."""
    orig = error.orig if isinstance(error, DBAPIError) else error
    if isinstance(orig, sqlite3.Error):
        return _of_sqlite(orig, f"SQLite cannot use {make_url(url).database}")
    if isinstance(error, DBAPIError):
        return _of_postgresql(error, make_url(url).render_as_string(hide_password=True))
    return None


def _of_sqlite(error: sqlite3.Error, at: str) -> Trouble | None:
    said = f"{at}: {_line(error)}"
    code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_OK)
    if code in db.FULL:
        return Trouble("other", said, _ROOM)
    # Text that is no text has no code; JSON that is none has that of a statement that is wrong.
    if code & 0xFF in _DAMAGE or any(word in said for word in ("malformed JSON", "decode to UTF-8")):
        return Trouble("damage", said, _RESTORE)
    if str(error).startswith("no such"):
        return Trouble("other", said, _MIGRATE)
    todo = _BY_CODE.get(code & 0xFF)
    return Trouble("other", said, todo) if todo else None


def _of_postgresql(error: DBAPIError, at: str) -> Trouble | None:
    state = getattr(error.orig, "sqlstate", None) or ""
    if state.startswith("XX"):  # such as a page whose checksum is wrong
        return Trouble("damage", f"PostgreSQL cannot read {at}: {_line(error.orig)}", _RESTORE)
    if todo := _BY_STATE.get(state):
        return Trouble("other", f"{at} cannot be used: {_line(error.orig)}", todo)
    if db.is_away(error):
        return Trouble("away", f"the database at {at} does not answer: {_line(error.orig)}", _AWAY)
    return None


def _line(error: object) -> str:
    """The first, without what drivers indent."""
    return " ".join(str(error).strip().partition("\n")[0].split())
