"""Workers that break one trial after another are set aside before they use up the trials' retries.

A machine whose driver is broken fails each trial within seconds and asks for the next, faster than
all sound ones together. A fault counts here if the worker called it one of the machine (`retryable`)
and it came within EARLY_US of the claim. After the MOST-th such fault on different trials, counted
over WINDOW_US, the worker gets no trial for ASIDE_US, the next time for twice as long, and so on;
none of these faults costs its trial a retry. Errors of a trial itself count for nothing: they say
that a study is broken, not a worker.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any

from sqlalchemy import BigInteger, Row, select, update

from tunesmith_service.clock import SECOND
from tunesmith_service.db import batch, rows
from tunesmith_service.tables import attempts, trials, workers
from tunesmith_service.tx import Tx

EARLY_US = 60 * SECOND
WINDOW_US = 600 * SECOND
ASIDE_US = 600 * SECOND
LONGEST_US = 24 * 3600 * SECOND
MOST = 3


def is_early(trial: Row[Any], now_us: int) -> bool:
    """Whether its running attempt began within EARLY_US."""
    return bool(now_us - trial.claimed_us <= EARLY_US)


def judge(tx: Tx, broken: Sequence[Row[Any]], now_us: int) -> set[int]:
    """Set aside the workers for which these early faults are the last straw.

    Args:
        broken: trials whose running attempts end now by an early fault, in order.
    Returns: ids of trials, also of earlier faults, whose fault costs no retry. For those of earlier
        faults that are not over, that retry has been given back.
    """
    theirs: defaultdict[str, set[int]] = defaultdict(set)
    for trial in broken:
        theirs[trial.worker_id].add(trial.id)
    forgiven: set[int] = set()
    for worker_id, now in sorted(theirs.items()):
        worker = tx.execute(select(workers).where(workers.c.id == worker_id).with_for_update()).one_or_none()
        if worker is None:
            continue
        before = _earlier(tx, worker, now_us)
        if len(before | now) >= MOST:
            _set_aside(tx, worker, now_us)
            _give_back(tx, before - now)
            forgiven |= before | now
    return forgiven


def _earlier(tx: Tx, worker: Row[Any], now_us: int) -> set[int]:
    """Trials that this worker broke early within the window, since it was last set aside."""
    since = max(now_us - WINDOW_US, worker.aside_until_us or 0)
    found = select(attempts.c.trial_id).where(
        attempts.c.ended_us >= since, attempts.c.worker_id == worker.id, attempts.c.early_fault
    )
    return set(tx.execute(found).scalars())


def _set_aside(tx: Tx, worker: Row[Any], now_us: int) -> None:
    times = worker.times_aside if worker.aside_until_us and not _has_worked(tx, worker) else 0
    lasts_us = min(ASIDE_US << min(times, 16), LONGEST_US)
    changed = update(workers).where(workers.c.id == worker.id)
    tx.execute(changed.values(aside_until_us=now_us + lasts_us, times_aside=times + 1))


def _has_worked(tx: Tx, worker: Row[Any]) -> bool:
    """Whether a trial came to a sound end there since it was last set aside."""
    ended = select(attempts.c.trial_id).where(
        attempts.c.ended_us >= worker.aside_until_us,
        attempts.c.worker_id == worker.id,
        attempts.c.ending == "finish",
        ~attempts.c.early_fault,
    )
    return tx.execute(ended.limit(1)).first() is not None


def _give_back(tx: Tx, trial_ids: Iterable[int]) -> None:
    b = batch(tx.dialect, id=BigInteger)
    live = trials.c.state.in_(("waiting", "running"))
    statement = update(trials).where(trials.c.id.in_(select(b.c.id)), live, trials.c.failures > 0)
    tx.execute(
        statement.values(failures=trials.c.failures - 1),
        {"batch": rows({"id": i} for i in sorted(trial_ids))},
    )


def let_work(worker_id: str, now_us: int) -> Any:
    """The statement that ends a worker's time aside; earlier faults are forgotten."""
    return (
        update(workers)
        .where(workers.c.id == worker_id, workers.c.aside_until_us > now_us)
        .values(aside_until_us=now_us, times_aside=0)
    )
