"""A database that was put back from a backup begins a new incarnation.

Attempts of before and after then differ although the backup has forgotten some of their numbers, and
no lease of before holds: its worker has reported what this database does not know. What ran goes back
to the queue at no cost and goes on from its newest snapshot here.
"""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import Engine, select, update

from tunesmith_service import audit, moves
from tunesmith_service.commands import BeginIncarnation
from tunesmith_service.db import writing
from tunesmith_service.moves import Move
from tunesmith_service.tables import instance, trials
from tunesmith_service.tx import Tx, lock

ACTOR = "operator:command line"
"""Who can put a database back: whoever may type on the server's machine. No token is asked for."""


def begin_incarnation(
    engine: Engine, now_us: int, *, above: int = 0, how: str, copied_us: int | None = None
) -> int:
    """Begin one above what the database and `above` say, hand back what ran, and write it into the audit log.
    Returns its number. Args: see `BeginIncarnation`."""
    command = BeginIncarnation(above, how, copied_us, ACTOR)
    with writing(engine).begin() as conn:
        tx = Tx(conn)
        ((_, number),), deeds = audit.witness(tx, _apply, [command], now_us)
        audit.append(tx, deeds, now_us)
    return int(number)


def _apply(tx: Tx, commands: Sequence[BeginIncarnation], now_us: int) -> list[tuple[int, int]]:
    (command,) = commands
    known: int = tx.execute(select(instance.c.incarnation).with_for_update()).scalar_one()
    number = max(known, command.above) + 1
    tx.execute(update(instance).values(incarnation=number))
    running = trials.c.state == "running"
    lock(tx, tx.execute(select(trials.c.study_id).distinct().where(running)).scalars())
    ran = tx.execute(moves.trial_rows().where(running)).all()
    back = [Move(t, "waiting", "restored", "restore", counts={"not_before_us": 0}) for t in ran]
    moves.change(tx, back, now_us)
    return [(known, number)]
