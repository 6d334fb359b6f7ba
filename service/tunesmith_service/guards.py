"""Triggers that refuse illegal moves of a trial, whoever tries. Every migration calls `install`.

SQLite's triggers use RAISE(ABORT) only: it undoes the statement and leaves the transaction to us.
Alembic's batch mode drops SQLite's triggers, so a migration that rebuilds `trials` calls `install`
again at its end.
"""

from __future__ import annotations

from sqlalchemy import Connection, insert, select
from tunesmith_studies.trial import MOVES

from tunesmith_service.tables import moves

_BAD_MOVE = (
    "NEW.state <> OLD.state AND NOT EXISTS "
    "(SELECT 1 FROM moves WHERE from_state = OLD.state AND to_state = NEW.state)"
)
_SQLITE = {
    "trials_move": ("BEFORE UPDATE OF state ON trials", _BAD_MOVE, "illegal move of a trial"),
    "trials_attempt": (
        "BEFORE UPDATE OF attempt ON trials",
        "NEW.attempt < OLD.attempt",
        "a trial's attempt never goes down",
    ),
    "trials_birth": (
        "BEFORE INSERT ON trials",
        "NEW.state <> 'waiting'",
        "a trial begins as waiting",
    ),
}
_POSTGRES = f"""
CREATE OR REPLACE FUNCTION guard_trials() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  IF TG_OP = 'INSERT' THEN
    IF NEW.state <> 'waiting' THEN
      RAISE EXCEPTION 'a trial begins as waiting' USING ERRCODE = 'check_violation';
    END IF;
  ELSIF NEW.attempt < OLD.attempt THEN
    RAISE EXCEPTION 'a trial''s attempt never goes down' USING ERRCODE = 'check_violation';
  ELSIF {_BAD_MOVE} THEN
    RAISE EXCEPTION 'illegal move of a trial' USING ERRCODE = 'check_violation';
  END IF;
  RETURN NEW;
END $$"""


def install(conn: Connection) -> None:
    """Fill `moves` and (re)create the triggers."""
    present = {tuple(row) for row in conn.execute(select(moves.c.from_state, moves.c.to_state))}
    missing = sorted(set(MOVES) - present)
    if missing:
        conn.execute(insert(moves), [{"from_state": a, "to_state": b} for a, b in missing])
    if conn.dialect.name == "sqlite":
        for name, (when, condition, message) in _SQLITE.items():
            quoted = message.replace("'", "''")
            conn.exec_driver_sql(f"DROP TRIGGER IF EXISTS {name}")
            conn.exec_driver_sql(
                f"CREATE TRIGGER {name} {when} WHEN {condition} BEGIN SELECT RAISE(ABORT, '{quoted}'); END"
            )
        return
    conn.exec_driver_sql(_POSTGRES)
    conn.exec_driver_sql(
        "CREATE OR REPLACE TRIGGER trials_guard BEFORE INSERT OR UPDATE OF state, attempt ON trials "
        "FOR EACH ROW EXECUTE FUNCTION guard_trials()"
    )
