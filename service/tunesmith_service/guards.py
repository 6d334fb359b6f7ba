"""Triggers that refuse illegal moves of a trial, and any change of the audit log but writing at its end,
whoever tries. Every migration that builds one of their tables calls `install`.

SQLite's triggers use RAISE(ABORT) only: it undoes the statement and leaves the transaction to us.
Alembic's batch mode drops SQLite's triggers, so a migration that rebuilds a table of theirs calls `install`
again at its end.
"""

from __future__ import annotations

from sqlalchemy import Connection, insert, inspect, select
from tunesmith_studies.trial import MOVES

from tunesmith_service.audit_chain import START
from tunesmith_service.tables import audit_chain, moves

_BAD_MOVE = (
    "NEW.state <> OLD.state AND NOT EXISTS "
    "(SELECT 1 FROM moves WHERE from_state = OLD.state AND to_state = NEW.state)"
)
_BACKWARDS = "NEW.head_n < OLD.head_n OR NEW.anchor_n < OLD.anchor_n"
_UNCHANGED = "an entry of the audit log is never changed"
_KEPT = "an entry of the audit log is kept for its time"
_AT_THE_END = "the audit log is written at its end"
_FORWARD = "the audit log only grows"
_SQLITE = {
    "trials": {
        "trials_move": ("BEFORE UPDATE OF state", _BAD_MOVE, "illegal move of a trial"),
        "trials_attempt": (
            "BEFORE UPDATE OF attempt",
            "NEW.attempt < OLD.attempt",
            "a trial's attempt never goes down",
        ),
        "trials_birth": ("BEFORE INSERT", "NEW.state <> 'waiting'", "a trial begins as waiting"),
    },
    "audit": {
        "audit_change": ("BEFORE UPDATE", "TRUE", _UNCHANGED),
        "audit_end": ("BEFORE DELETE", "OLD.n > (SELECT anchor_n FROM audit_chain)", _KEPT),
        "audit_birth": ("BEFORE INSERT", "NEW.n <= (SELECT head_n FROM audit_chain)", _AT_THE_END),
    },
    "audit_chain": {
        "audit_chain_change": ("BEFORE UPDATE", _BACKWARDS, _FORWARD),
        "audit_chain_end": ("BEFORE DELETE", "TRUE", _FORWARD),
        "audit_chain_birth": ("BEFORE INSERT", "EXISTS (SELECT 1 FROM audit_chain)", _FORWARD),
    },
}
"""By table and name: when, under which condition, and what is said. `INSERT OR REPLACE` deletes without a
DELETE trigger, so what must stay is guarded at INSERT too."""


def _quoted(message: str) -> str:
    return "'" + message.replace("'", "''") + "'"


def _refusal(message: str) -> str:
    return f"RAISE EXCEPTION {_quoted(message)} USING ERRCODE = 'check_violation';"


_POSTGRES = {
    "trials": (
        "INSERT OR UPDATE OF state, attempt",
        f"""
  IF TG_OP = 'INSERT' THEN
    IF NEW.state <> 'waiting' THEN
      {_refusal("a trial begins as waiting")}
    END IF;
  ELSIF NEW.attempt < OLD.attempt THEN
    {_refusal("a trial's attempt never goes down")}
  ELSIF {_BAD_MOVE} THEN
    {_refusal("illegal move of a trial")}
  END IF;
  RETURN NEW;""",
    ),
    "audit": (
        "INSERT OR UPDATE OR DELETE",
        f"""
  IF TG_OP = 'INSERT' THEN
    IF NEW.n <= (SELECT head_n FROM audit_chain) THEN
      {_refusal(_AT_THE_END)}
    END IF;
    RETURN NEW;
  ELSIF TG_OP = 'DELETE' THEN
    IF OLD.n > (SELECT anchor_n FROM audit_chain) THEN
      {_refusal(_KEPT)}
    END IF;
    RETURN OLD;
  END IF;
  {_refusal(_UNCHANGED)}""",  # noqa: S608 (all of it is ours)
    ),
    "audit_chain": (
        "UPDATE OR DELETE",
        f"""
  IF TG_OP = 'UPDATE' THEN
    IF {_BACKWARDS} THEN
      {_refusal(_FORWARD)}
    END IF;
    RETURN NEW;
  END IF;
  {_refusal(_FORWARD)}""",
    ),
}
"""By table: before which statements its function is asked for each row, and what that does."""


def install(conn: Connection) -> None:
    """Fill what triggers read, and (re)create those of the tables that are there already."""
    present = {tuple(row) for row in conn.execute(select(moves.c.from_state, moves.c.to_state))}
    missing = sorted(set(MOVES) - present)
    if missing:
        conn.execute(insert(moves), [{"from_state": a, "to_state": b} for a, b in missing])
    known = set(inspect(conn).get_table_names())
    if audit_chain.name in known and conn.execute(select(audit_chain.c.id)).first() is None:
        begun = {"id": 1, "head_n": 0, "head_hash": START, "anchor_n": 0, "anchor_hash": START}
        conn.execute(insert(audit_chain).values(begun))
    create = _on_sqlite if conn.dialect.name == "sqlite" else _on_postgresql
    for table in _SQLITE:
        if table in known:
            create(conn, table)


def _on_sqlite(conn: Connection, table: str) -> None:
    for name, (when, condition, message) in _SQLITE[table].items():
        conn.exec_driver_sql(f"DROP TRIGGER IF EXISTS {name}")
        conn.exec_driver_sql(
            f"CREATE TRIGGER {name} {when} ON {table} WHEN {condition} "
            f"BEGIN SELECT RAISE(ABORT, {_quoted(message)}); END"
        )


def _on_postgresql(conn: Connection, table: str) -> None:
    when, body = _POSTGRES[table]
    conn.exec_driver_sql(
        f"CREATE OR REPLACE FUNCTION guard_{table}() RETURNS trigger LANGUAGE plpgsql "
        f"AS $$\nBEGIN{body}\nEND $$"
    )
    conn.exec_driver_sql(
        f"CREATE OR REPLACE TRIGGER {table}_guard BEFORE {when} ON {table} "
        f"FOR EACH ROW EXECUTE FUNCTION guard_{table}()"
    )
    if table != "trials":
        conn.exec_driver_sql(
            f"CREATE OR REPLACE TRIGGER {table}_whole BEFORE TRUNCATE ON {table} "
            f"FOR EACH STATEMENT EXECUTE FUNCTION guard_{table}()"
        )
