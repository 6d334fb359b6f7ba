"""The real handlers against the reference model, on random histories with zombies, replays and batches."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import pytest
from databases import Databases
from factories import PROJECT, TASK, WORK, Bench, Grant, Slot, hex128, report, sha256, stage
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    initialize,
    invariant,
    multiple,
    rule,
    run_state_machine_as_test,
)
from invariants import look, violations
from lease_model import MOST_RUNNING, MOST_TRIALS, RETRIES, Model, word
from sqlalchemy import Engine, bindparam, select, update
from tunesmith_service import commands as c
from tunesmith_service import db, event_log, reading, tables, wire, wishes
from tunesmith_studies.log import Entry

FINAL = ("complete", "pruned", "failed", "cancelled")


MEASURING = "dh"
"""Keys of trials that measure."""

_S, _T, _A, _R = tables.studies.c, tables.trials.c, tables.attempts.c, tables.reports.c
_STUDY = bindparam("study")
STUDY = select(_S.state, _S.waiting, _S.running, _S.finished, _S.trial_n, _S.event_n).where(_S.id == _STUDY)
TRIALS = select(
    _T.number, _T.state, _T.stop_reason, _T.attempt, _T.losses, _T.failures, _T.lease_expires_us, _T.value
).where(_T.study_id == _STUDY)
ATTEMPTS = (
    select(_T.number, _A.attempt, _A.incarnation, _A.resume_step, _A.ended_us)
    .join(tables.trials, _T.id == _A.trial_id)
    .where(_T.study_id == _STUDY)
    .order_by(_A.attempt)
)
REPORTS = select(_R.trial_id, _R.attempt, _R.seq).where(_R.study_id == _STUDY)
"""Made once: they are read after each of many thousand steps."""


class LeaseMachine(RuleBasedStateMachine):
    """One study, three slots of three workers, time that passes only by a rule."""

    engine: Engine
    grants: Bundle[Grant] = Bundle("grants")  # every lease ever given, old ones too: they are the zombies

    @initialize()
    def begin(self) -> None:
        self.bench = Bench(self.engine)
        limits = {"max_concurrent": MOST_RUNNING, "max_trials": MOST_TRIALS}
        self.study = self.bench.study(f"study {hex128()}", limits=limits, retries=RETRIES, stages=[stage()])
        self.model = Model()
        self.slots = [self.bench.register()[0] for _ in range(3)]
        self.model.slot_of = {s.worker_id: s.slot_id for s in self.slots}
        self.model.boots = {s.slot_id: s.boot_id for s in self.slots}
        self.model.starts = {s.worker_id: s.starts for s in self.slots}
        with self.engine.connect() as conn:
            self.model.incarnation = conn.execute(select(tables.instance.c.incarnation)).scalar_one()
        self.acknowledged: list[tuple[int, int, int]] = []

    def teardown(self) -> None:
        if hasattr(self, "study"):
            assert violations(look(self.engine, studies={self.study}, judge_decisions=False)) == []
            self.bench.do(c.MoveStudy(self.study, "stopped", "test", "the example ends"))

    def send(self, *commands: c.Command) -> list[Any]:
        """Apply to both, in one batch, and compare. Returns the service's outcomes."""
        self.model.plan_at = self.bench.event_n(self.study)
        outcomes = self.bench.batch(*commands)
        told = [word(self.model, o) for o in outcomes]
        expected = self.model.batch(list(commands), self.bench.clock.now_us())
        assert told == expected, (commands, told, expected)
        for command, answer in zip(commands, told, strict=True):
            if isinstance(command, c.Report) and answer == "kept":
                self.acknowledged.append((command.lease.trial_id, command.lease.attempt, command.seq))
        return outcomes

    def grant(self, claim: c.Claim, outcome: Any) -> Any:
        return self.bench.granted(claim, outcome) if isinstance(outcome, c.Granted) else multiple()

    # --- rules ------------------------------------------------------------------------------------

    @rule(key=st.sampled_from("abcdefgh"), draft=st.booleans(), late=st.booleans())
    def propose(self, key: str, draft: bool, late: bool) -> None:
        self.send(self.proposal(key, draft, late))

    def proposal(self, key: str, draft: bool = False, late: bool = False) -> c.Propose:
        work = WORK | {"kind": "preflight"} if key in MEASURING else WORK
        at = 0 if late else self.bench.event_n(self.study)
        return c.Propose(
            self.study, "random", key, ord(key) - ord("a"), {"lr": 0.1}, work, None, {}, at, draft
        )

    @rule(which=st.integers(0, MOST_TRIALS), late=st.booleans())
    def redraw(self, which: int, late: bool) -> None:
        if which < len(self.model.trials):
            at = 0 if late else self.bench.event_n(self.study)
            self.send(c.Redraw(self.study, which, {"lr": 0.7}, {}, at))

    @rule(n=st.integers(1, 3))
    def enqueue(self, n: int) -> None:
        self.send(c.Enqueue(self.study, "random", ({"lr": 0.5},) * n, WORK, "test"))

    @rule(target=grants, slot=st.integers(0, 2), accept_stale=st.booleans())
    def claim(self, slot: int, accept_stale: bool) -> Any:
        asked = self.bench.ask(self.slots[slot], accept_stale=accept_stale)
        return self.grant(asked, self.send(asked)[0])

    @rule(target=grants, order=st.permutations((0, 1, 2)), key=st.sampled_from("abcdefgh"))
    def claim_together(self, order: list[int], key: str) -> Any:
        asked = [self.bench.ask(self.slots[i]) for i in order]
        outcomes = self.send(*asked, self.proposal(key))
        got = [self.grant(a, o) for a, o in zip(asked, outcomes, strict=False) if isinstance(o, c.Granted)]
        return multiple(*got)

    @rule(grant=grants)
    def claim_again(self, grant: Grant) -> None:
        self.send(grant.claim, grant.claim)

    @rule(grant=grants)
    def renew(self, grant: Grant) -> None:
        self.send(c.Renew(grant.lease), c.Renew(grant.lease))

    @rule(grant=grants)
    def renew_with_another_secret_or_incarnation(self, grant: Grant) -> None:
        self.send(c.Renew(replace(grant.lease, secret_hash=b"x" * 32)))
        self.send(c.Renew(replace(grant.lease, incarnation=grant.lease.incarnation + 1)))

    @rule()
    def the_incarnation_rises(self) -> None:
        """What is granted from now on belongs to it; leases that are held keep theirs."""
        self.model.incarnation += 1
        with db.writing(self.engine).begin() as conn:
            conn.execute(update(tables.instance).values(incarnation=self.model.incarnation))

    @rule(
        grant=grants,
        seq=st.integers(1, 4),
        loss=st.sampled_from((0.5, 0.25, math.nan)),
        more=st.integers(0, 2),
    )
    def report(self, grant: Grant, seq: int, loss: float, more: int) -> None:
        self.send(report(grant, seq, *(loss,) * (more + 1), step=self.step(grant) + 1))

    @rule(grant=grants, together=st.booleans())
    def two_reports(self, grant: Grant, together: bool) -> None:
        seq, step = len(self.attempt(grant).reports) + 1, self.step(grant)
        pair = (report(grant, seq + 1, 0.2, step=step + 2), report(grant, seq, 0.3, step=step + 1))
        if together:
            self.send_out_of_order(*pair)
        else:
            self.send(pair[1])
            self.send(pair[0])

    def send_out_of_order(self, later: c.Report, earlier: c.Report) -> None:
        """Two reports in one batch count in order of seq, however they arrived."""
        outcomes = self.bench.batch(later, earlier)
        expected = self.model.batch([earlier, later], self.bench.clock.now_us())
        assert [word(self.model, o) for o in outcomes] == expected[::-1]
        for command, answer in zip((earlier, later), expected, strict=True):
            if answer == "kept":
                self.acknowledged.append((command.lease.trial_id, command.lease.attempt, command.seq))

    @rule(grant=grants, other=st.booleans())
    def snapshot(self, grant: Grant, other: bool) -> None:
        step = self.step(grant)
        digest = sha256(f"{grant.trial_id} {grant.attempt} {step} {other}")
        self.send(c.CommitSnapshot(grant.lease, step, digest, 100))

    @rule(grant=grants, seq=st.integers(1, 2), other=st.booleans())
    def log_and_artifact(self, grant: Grant, seq: int, other: bool) -> None:
        digest = sha256(f"log {other}")
        self.send(c.AppendLog(grant.lease, seq, digest, 3), c.CommitArtifact(grant.lease, "plot", digest, 3))

    @rule(
        grant=grants, how=st.sampled_from(("complete", "pruned", "failed", "retryable")), twice=st.booleans()
    )
    def finish(self, grant: Grant, how: str, twice: bool) -> None:
        finish = self.ending(grant, how)
        self.send(*(finish,) * (2 if twice else 1))

    def ending(self, grant: Grant, how: str) -> c.Finish:
        state = "failed" if how == "retryable" else how
        reason = {"complete": "budget", "pruned": "diverged", "failed": "error"}[state]
        return c.Finish(grant.lease, state, reason, retryable=how == "retryable")

    @rule(grant=grants, how=st.sampled_from(("complete", "failed", "retryable")))
    def report_and_finish_and_claim_together(self, grant: Grant, how: str) -> None:
        seq = len(self.attempt(grant).reports) + 1
        last = report(grant, seq, 0.1, step=self.step(grant) + 1)
        self.send(self.ending(grant, how), c.Renew(grant.lease), last)

    @rule(grant=grants)
    def release(self, grant: Grant) -> None:
        self.send(c.Release(grant.lease, "preempted"))

    @rule(seconds=st.sampled_from((1, 10, 31, 61)))
    def time_passes(self, seconds: int) -> None:
        self.bench.seconds(seconds)

    @rule(seconds=st.sampled_from((0, 31, 61)))
    def sweep(self, seconds: int) -> None:
        self.bench.seconds(seconds)
        self.send(c.Sweep())

    @rule()
    def our_own_outage(self) -> None:
        self.send(c.Grace(40_000_000))

    @rule(target=grants, grant=grants, slot=st.integers(0, 2), lost=st.booleans(), again=st.booleans())
    def train_on_and_resume(self, grant: Grant, slot: int, lost: bool, again: bool) -> Any:
        """The way to a resumed curve, which single rules seldom find: report, save, report, lose, claim."""
        seq, step = len(self.attempt(grant).reports), self.step(grant)
        self.send(report(grant, seq + 1, 0.3, step=step + 1))
        self.snapshot(grant, other=False)
        self.send(report(grant, seq + 2, 0.2, step=step + 2))
        if again:
            self.snapshot(grant, other=False)
        if lost:
            self.bench.seconds(80)
            self.send(c.Sweep())
            self.bench.seconds(61)
        else:
            self.release(grant)
        asked = self.bench.ask(self.slots[slot])
        resumed = self.grant(asked, self.send(asked)[0])
        if isinstance(resumed, Grant) and again:
            self.snapshot(resumed, other=True)
        return resumed

    @rule(which=st.integers(0, MOST_TRIALS))
    def prune(self, which: int) -> None:
        if which < len(self.model.trials):
            self.send(c.Prune(self.study, which, 0, 1))

    @rule(which=st.integers(0, MOST_TRIALS))
    def cancel(self, which: int) -> None:
        if which < len(self.model.trials):
            self.send(c.CancelTrial(self.study, which, "test"))

    @rule(which=st.integers(0, MOST_TRIALS))
    def prune_by_hand(self, which: int) -> None:
        if which < len(self.model.trials):
            self.send(wishes.PruneNow(self.study, which, "test"))

    @rule(which=st.integers(0, MOST_TRIALS))
    def try_again(self, which: int) -> None:
        if which < len(self.model.trials):
            self.send(wishes.Retry(self.study, (which,), "test"))

    @rule(which=st.integers(0, 2), draining=st.booleans())
    def drain(self, which: int, draining: bool) -> None:
        self.send(c.DrainWorker(PROJECT, self.slots[which].worker_id, draining))

    @rule(state=st.sampled_from(("paused", "active", "active")))
    def pause_or_resume(self, state: str) -> None:
        self.send(c.MoveStudy(self.study, state, "test", ""))

    @rule(really=st.integers(0, 9))
    def stop(self, really: int) -> None:
        if really == 0:
            self.send(c.MoveStudy(self.study, "stopped", "test", "enough"))

    @rule(which=st.integers(0, 2))
    def restart_worker(self, which: int) -> None:
        old = self.slots[which]
        lost, new = (replace(old, boot_id=hex128(), starts=old.starts + n) for n in (1, 2))
        self.send(self.registration(new))
        self.slots[which] = new
        self.send(self.registration(old))  # words of earlier starts come late, one for the first time
        self.send(self.registration(lost))
        self.send(self.bench.ask(old))

    def registration(self, slot: Slot) -> c.Register:
        body = wire.Register(
            worker_id=slot.worker_id,
            boot_id=slot.boot_id,
            starts=slot.starts,
            name="worker",
            version="1",
            tasks={TASK: "d1" * 32},
            slots=[wire.Slot(slot_id=slot.slot_id, devices=["cpu"])],
        )
        return c.Register(PROJECT, self.bench.token_id, body)

    def attempt(self, grant: Grant) -> Any:
        return self.model.trials[grant.number].attempts[grant.attempt - 1]

    def step(self, grant: Grant) -> int:
        return int(self.attempt(grant).step)

    # --- what must hold after each step -----------------------------------------------------------

    @invariant()
    def what_is_stored_is_what_the_model_says(self) -> None:
        if not hasattr(self, "study"):
            return
        asked = {"study": self.study}
        with self.engine.connect() as conn:
            (study,) = conn.execute(STUDY, asked)
            trials, attempts, reports = (conn.execute(x, asked).all() for x in (TRIALS, ATTEMPTS, REPORTS))
            entries = event_log.entries_since(conn, self.study, 0)
            curves = reading.curves(conn, self.model.ids)
        self.the_tables_say_what_the_model_says(study, trials)
        self.attempts_are_dense_and_at_most_one_is_open(attempts)
        self.the_log_is_dense_and_nothing_follows_a_trials_end(study, entries)
        # Every acknowledged report is there once.
        assert sorted(tuple(row) for row in reports) == sorted(self.acknowledged)
        # Curves hold what resumed attempts kept.
        for trial_id, number in self.model.ids.items():
            told = [(p.step, p.metrics["val/loss"]) for p in curves.get(trial_id, [])]
            assert repr(told) == repr(self.model.trials[number].curve)

    def the_tables_say_what_the_model_says(self, study: Any, trials: Sequence[Any]) -> None:
        for row in trials:
            trial = self.model.trials[row.number]
            assert (row.state, row.stop_reason, row.attempt) == (
                trial.state,
                trial.reason,
                len(trial.attempts),
            )
            assert (row.losses, row.failures) == (trial.losses, trial.failures)
            assert row.state != "running" or row.lease_expires_us == trial.expires
            value = trial.curve[-1][1] if row.state == "complete" and not trial.measures else None
            assert row.value == value
        states = Counter(trial.state for trial in self.model.trials)
        assert study.state == self.model.state
        assert (study.waiting, study.running) == (states["waiting"], states["running"])
        assert study.finished == sum(states[s] for s in FINAL)
        assert study.trial_n == len(trials) == len(self.model.trials)

    def attempts_are_dense_and_at_most_one_is_open(self, attempts: Sequence[Any]) -> None:
        found: dict[int, list[Any]] = {}
        for row in attempts:
            found.setdefault(row.number, []).append(row)
        for number, tried in found.items():
            assert [row.attempt for row in tried] == list(range(1, len(tried) + 1))
            modelled = self.model.trials[number].attempts
            assert [(a.incarnation, a.resume_step) for a in tried] == [
                (a.incarnation, a.resumed) for a in modelled
            ]
            still_open = [row for row in tried if row.ended_us is None]
            assert len(still_open) == (self.model.trials[number].state == "running")

    def the_log_is_dense_and_nothing_follows_a_trials_end(self, study: Any, entries: Sequence[Entry]) -> None:
        assert [e.n for e in entries] == list(range(1, study.event_n + 1))
        over: set[int] = set()
        for e in entries:
            if e.trial is not None:
                assert e.trial not in over, e
                if e.kind == "moved" and e.data["to"] in FINAL:
                    over.add(e.trial)
        assert over == {i for i, trial in enumerate(self.model.trials) if trial.final}


@pytest.fixture(params=["sqlite", "postgresql"])
def machine(request: pytest.FixtureRequest, databases: Databases) -> Iterator[type[LeaseMachine]]:
    url = databases.make(request.param)
    engine = db.open_engine(url)
    yield type(f"LeaseMachineOn{request.param}", (LeaseMachine,), {"engine": engine})
    engine.dispose()
    databases.drop(url)


def test_any_history_goes_as_the_model_says(machine: type[LeaseMachine]) -> None:
    chosen = settings()
    if machine.engine.dialect.name == "postgresql":
        chosen = settings(max_examples=max(chosen.max_examples // 5, 1))
    run_state_machine_as_test(machine, settings=chosen)
