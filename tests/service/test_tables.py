"""What the database itself refuses, whoever asks."""

from __future__ import annotations

from typing import Any

import pytest
from factories import Bench
from sqlalchemy import Engine, insert, update
from sqlalchemy.exc import IntegrityError
from tunesmith_service import tables
from tunesmith_service.db import writing
from tunesmith_studies.trial import MOVES, TrialState

LEASE = {"lease_hash": "ab" * 32, "lease_expires_us": 1}
NO_LEASE: dict[str, Any] = {"lease_hash": None, "lease_expires_us": None}


def put(engine: Engine, number: int, **values: Any) -> None:
    with writing(engine).begin() as conn:
        conn.execute(update(tables.trials).where(tables.trials.c.number == number).values(**values))


def fields_of(state: str) -> dict[str, Any]:
    """What a trial in this state must have beside it."""
    lease = LEASE if state == "running" else NO_LEASE
    reason = None if state in ("waiting", "running") else "budget"
    return {"state": state, "stop_reason": reason, "value": 0.5 if state == "complete" else None, **lease}


def bring_to(engine: Engine, number: int, state: str) -> None:
    if state not in ("waiting", "cancelled"):
        put(engine, number, **fields_of("running"))
    if state not in ("waiting", "running"):
        put(engine, number, **fields_of(state))


@pytest.mark.parametrize("old", list(TrialState))
def test_only_the_listed_moves_of_a_trial_are_possible(bench: Bench, old: TrialState) -> None:
    study = bench.study()
    for new in TrialState:
        number = bench.trial(study)
        bring_to(bench.engine, number, old)
        if (old, new) in MOVES or old is new:
            put(bench.engine, number, **fields_of(new))
            assert bench.row(study, number).state == new
        else:
            with pytest.raises(IntegrityError, match="illegal move"):
                put(bench.engine, number, **fields_of(new))
            assert bench.row(study, number).state == old


def test_an_attempt_never_goes_down(bench: Bench) -> None:
    number = bench.trial(bench.study())
    put(bench.engine, number, attempt=2)
    with pytest.raises(IntegrityError, match="never goes down"):
        put(bench.engine, number, attempt=1)


def test_a_trial_begins_as_waiting(bench: Bench) -> None:
    study = bench.study()
    row = dict(bench.row(study, bench.trial(study))._mapping) | {"id": 99, "number": 99, "key": "other"}
    with pytest.raises(IntegrityError, match="begins as waiting"), writing(bench.engine).begin() as conn:
        conn.execute(insert(tables.trials).values(row | fields_of("running")))


@pytest.mark.parametrize(
    "broken",
    [
        fields_of("running") | {"lease_hash": None},
        fields_of("running") | {"lease_expires_us": None},
        {"lease_hash": "ab" * 32},
        {"lease_expires_us": 1},
        {"value": 0.5},
        {"stop_reason": "budget"},
    ],
)
def test_a_trials_row_must_fit_its_state(bench: Bench, broken: dict[str, Any]) -> None:
    number = bench.trial(bench.study())
    with pytest.raises(IntegrityError, match="ck_trials"):
        put(bench.engine, number, **broken)


@pytest.mark.parametrize(
    ("broken", "constraint"),
    [
        ({"running": 3, "waiting": -2}, "ck_studies"),
        ({"running": 3, "finished": 1, "trial_n": 4}, "max_concurrent"),
        ({"trial_n": 5, "finished": 5}, "max_trials"),
        ({"waiting": 1}, "every_trial_counts_once"),
    ],
)
def test_a_studys_counters_hold_its_limits(bench: Bench, broken: dict[str, int], constraint: str) -> None:
    bench.study(limits={"max_concurrent": 2, "max_trials": 4})
    with pytest.raises(IntegrityError, match=constraint), writing(bench.engine).begin() as conn:
        conn.execute(update(tables.studies).values(**broken))


def test_a_slot_runs_one_trial_at_a_time(bench: Bench) -> None:
    study = bench.study()
    for _ in range(2):
        bench.trial(study)
    put(bench.engine, 0, **fields_of("running"), slot_id="s")
    with pytest.raises(IntegrityError, match="slot"):
        put(bench.engine, 1, **fields_of("running"), slot_id="s")


def test_a_key_stands_once_in_a_stage(bench: Bench) -> None:
    study = bench.study()
    row = dict(bench.row(study, bench.trial(study, key="cell"))._mapping) | {"id": 99, "number": 99}
    with pytest.raises(IntegrityError, match="key"), writing(bench.engine).begin() as conn:
        conn.execute(insert(tables.trials).values(row))


def test_what_a_beat_or_a_report_changes_stands_in_no_index() -> None:
    """Else PostgreSQL writes the row anew in every index of the table, each time: see migration 0012."""
    changed = {"lease_expires_us", "report_seq", "step", "furthest", "losses", "last_metrics"}
    indexed = {column.name for index in tables.trials.indexes for column in index.columns}
    assert changed <= set(tables.trials.c.keys())
    assert not changed & indexed
