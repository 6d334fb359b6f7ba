"""A database that was put back from a backup begins a new incarnation.

Attempts of before and after then differ although the backup has forgotten some of their numbers, and
no lease of before holds: its worker has reported what this database does not know. What ran goes back
to the queue at no cost and goes on from its newest snapshot here.
"""

from __future__ import annotations

from sqlalchemy import Engine, select, update

from tunesmith_service import moves
from tunesmith_service.db import writing
from tunesmith_service.moves import Move
from tunesmith_service.tables import instance, trials
from tunesmith_service.tx import Tx, lock


def begin_incarnation(engine: Engine, now_us: int, *, above: int = 0) -> int:
    """Begin one above what the database and `above` say, and hand back what ran. Returns its number."""
    with writing(engine).begin() as conn:
        tx = Tx(conn)
        known: int = tx.execute(select(instance.c.incarnation).with_for_update()).scalar_one()
        number = max(known, above) + 1
        tx.execute(update(instance).values(incarnation=number))
        running = trials.c.state == "running"
        lock(tx, tx.execute(select(trials.c.study_id).distinct().where(running)).scalars())
        ran = tx.execute(moves.trial_rows().where(running)).all()
        back = [Move(t, "waiting", "restored", "restore", counts={"not_before_us": 0}) for t in ran]
        moves.change(tx, back, now_us)
    return number
