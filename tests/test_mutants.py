"""The checkers are checked: bugs that other systems had are put in, and each must be noticed."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import scenes
from databases import Databases
from invariants import INVARIANTS, violations
from linearizability import TrialState, check, trial_histories, trial_step
from mutants import MUTANTS, Mutant
from simulation.run import Outcome, play

FAULTS = (Path(__file__).parents[1] / "docs" / "faults.md").read_text(encoding="utf-8")


def found(outcome: Outcome, mutant: Mutant) -> list[str]:
    """What the checkers say, a sentence each, with the invariant's name before it."""
    told = list(outcome.violations)
    if "anomaly" in mutant.breaks:
        assert outcome.seen is not None
        for trial_id, ops in trial_histories(outcome.seen.calls, outcome.seen.rows).items():
            if (verdict := check(ops, TrialState(), trial_step)) != "linearizable":
                told.append(f"{verdict}: what clients saw of trial id {trial_id}")
    return told


def test_all_that_the_specification_names_are_here() -> None:
    assert len(MUTANTS) == 16, sorted(MUTANTS)
    assert {name for m in MUTANTS.values() for name in m.breaks} <= {*INVARIANTS, "anomaly"}


def test_the_table_of_bugs_says_what_is_checked() -> None:
    told = [line for line in FAULTS.splitlines() if line.startswith("| `")]
    assert told == [m.row for m in MUTANTS.values()]


@pytest.mark.parametrize("name", MUTANTS)
def test_a_mutant_is_caught_by_the_invariant_that_it_breaks(databases: Databases, name: str) -> None:
    mutant = MUTANTS[name]
    with mutant.applied():
        told = found(play(0, databases=databases, script=mutant.scene), mutant)
    assert not mutant.unused, f"{name} replaces what is no longer used: {mutant.unused}"
    for invariant, words in mutant.breaks.items():
        theirs = [t for t in told if t.startswith(f"{invariant}: ")]
        assert [t for t in theirs if words in t], f"{name} ({mutant.of}) lives; found was {told[:10]}"


@pytest.mark.parametrize("name", MUTANTS)
def test_the_sound_service_keeps_every_promise_in_its_scene(databases: Databases, name: str) -> None:
    mutant = MUTANTS[name]
    outcome = play(0, databases=databases, script=mutant.scene)
    assert found(outcome, mutant) == []


def test_an_entry_that_is_missing_in_the_audit_log_is_noticed(databases: Databases) -> None:
    seen = play(0, databases=databases, script=scenes.paused_and_resumed).seen
    assert seen is not None
    entries = seen.rows["audit"]
    assert len(entries) > 3
    for i in range(len(entries)):
        rows = {**seen.rows, "audit": [*entries[:i], *entries[i + 1 :]]}
        (told,) = violations(replace(seen, rows=rows))
        assert told.startswith(f"I11: entry {entries[i].n} of the audit log is missing")
