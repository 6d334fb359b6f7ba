"""What must hold whatever happened: checkers over what clients saw and what the database says.

Each invariant is a function of what was `Seen` that yields a sentence for each violation. Simulation, soak,
mutants and state machine ask the same ones; docs/promises.md says what they promise.
"""

from __future__ import annotations

import hashlib
import math
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from itertools import groupby
from typing import Any

from history import Call
from seen import Rows, Seen, look
from sqlalchemy import Row
from tunesmith_service.audit_chain import Entry as Audited
from tunesmith_service.audit_chain import Link, first_broken
from tunesmith_service.clock import SECOND
from tunesmith_studies.decisions import differences
from tunesmith_studies.log import Entry
from tunesmith_studies.trial import MOVES

__all__ = ["ACCEPTED", "FINAL", "INVARIANTS", "Rows", "Seen", "look", "violations"]

FINAL = ("complete", "pruned", "failed", "cancelled")
ACCEPTED = ("heartbeat", "reports", "snapshots", "logs", "artifacts")
"""Writes of a lease's holder that are never accepted once the lease is over; a finish or release said again
gets its answer again."""


def violations(seen: Seen) -> list[str]:
    """A sentence for each violation of each invariant, with its name before it."""
    return [f"{name}: {told}" for name, check in INVARIANTS.items() for told in check(seen)]


# --- leases ---------------------------------------------------------------------------------------


def one_lease_an_attempt(seen: Seen) -> Iterator[str]:
    """I1: one lease per (incarnation, attempt); attempts 1..n without gap; open exactly while running."""
    tried = seen.trial_rows("attempts")
    for trial in seen.rows["trials"]:
        theirs = sorted(tried.get(trial.id, ()), key=lambda a: a.attempt)
        numbers = [a.attempt for a in theirs]
        if numbers != list(range(1, trial.attempt + 1)):
            yield f"trial id {trial.id} stands at attempt {trial.attempt} and has attempts {numbers}"
        still_open = [a.attempt for a in theirs if a.ended_us is None]
        if still_open != ([trial.attempt] if trial.state == "running" else []):
            yield f"trial id {trial.id} is {trial.state} with open attempts {still_open}"
    holders: defaultdict[tuple[int, int, int], set[str]] = defaultdict(set)
    for call in seen.calls:
        if grant := call.grant:
            place = (grant["trial_id"], grant["incarnation"], grant["attempt"])
            holders[place].add(call.body["secret"])
    for place, secrets in holders.items():
        if len(secrets) > 1:
            yield f"{len(secrets)} claims were granted (trial id, incarnation, attempt) {place}"


def nobody_runs_for_a_worker_of_before(seen: Seen) -> Iterator[str]:
    """T9: what a worker's slots ran is handed back as soon as it has started anew."""
    boots = {w.id: w.boot_id for w in seen.rows["workers"]}
    for trial in seen.rows["trials"]:
        if trial.state == "running" and boots.get(trial.worker_id) != trial.boot_id:
            yield f"trial id {trial.id} is running for worker {trial.worker_id}, which has started anew"


def no_write_of_the_dead(seen: Seen) -> Iterator[str]:
    """I2: no write by attempt k is accepted after k+1 was claimed."""
    granted: defaultdict[int, list[tuple[int, int, float]]] = defaultdict(list)
    for call in seen.calls:
        if grant := call.grant:
            granted[grant["trial_id"]].append((grant["incarnation"], grant["attempt"], call.end))
    for call in seen.calls:
        if call.lease is None or not call.ok or call.what not in ACCEPTED:
            continue
        for incarnation, attempt, at in granted[call.lease.trial_id]:
            if (incarnation, attempt) > (call.lease.incarnation, call.lease.attempt) and at <= call.begin:
                yield (
                    f"{call.client}'s {call.what} under attempt {call.lease.attempt} of trial id "
                    f"{call.lease.trial_id} was accepted at {call.begin:.3f}, after {attempt} was granted"
                )
                break
    for study_id, log in seen.logs.items():
        current: dict[int | None, int] = {}
        for entry in log:
            attempt = entry.data.get("attempt")
            if entry.kind == "moved" and entry.data["to"] == "running":
                current[entry.trial] = attempt
            elif attempt and attempt != current.get(entry.trial):
                yield (
                    f"event {entry.n} of study id {study_id} ({entry.kind} of trial {entry.trial}) is by "
                    f"attempt {attempt} while {current.get(entry.trial)} was current"
                )


def no_early_expiry(seen: Seen) -> Iterator[str]:
    """A lease expires no sooner than its TTL after its last sign of life, our own outages not counted."""
    alive: defaultdict[tuple[int, int], int] = defaultdict(int)
    incarnations: dict[tuple[int, int], int] = {}
    for attempt in seen.rows["attempts"]:
        alive[attempt.trial_id, attempt.attempt] = attempt.claimed_us
        incarnations[attempt.trial_id, attempt.attempt] = attempt.incarnation
    for table in ("reports", "logs", "artifacts"):
        for row in seen.rows[table]:
            place = (row.trial_id, row.attempt)
            alive[place] = max(alive[place], row.at_us)
    for call in seen.calls:
        if call.lease is not None and call.ok and call.what in ACCEPTED:
            place = (call.lease.trial_id, call.lease.attempt)
            if incarnations.get(place) == call.lease.incarnation:
                alive[place] = max(alive[place], call.served_us)
    for event in seen.rows["events"]:
        if event.kind == "moved" and event.cause == "expired":
            last = alive[event.trial_id, event.data["attempt"]]
            lived = event.at_us - last - overlap(seen.downs, last, event.at_us)
            if lived < seen.ttl_us:
                yield (
                    f"attempt {event.data['attempt']} of trial id {event.trial_id} expired "
                    f"{lived / SECOND:.3f} s after it was last heard of, sooner than its "
                    f"{seen.ttl_us / SECOND:g} s"
                )


def overlap(spans: Sequence[tuple[int, int]], begin: int, end: int) -> int:
    """How much of [begin, end] lies in any of the spans.

    >>> overlap([(0, 4), (2, 5), (9, 20)], 1, 10)
    5
    """
    covered, upto = 0, begin
    for first, last in sorted(spans):
        a, b = max(first, upto), min(last, end)
        if b > a:
            covered, upto = covered + b - a, b
    return covered


# --- states ---------------------------------------------------------------------------------------


def one_end(seen: Seen) -> Iterator[str]:
    """I3: one terminal event, nothing after; each change of state is legal, from where the last ended."""
    legal = {(str(a), str(b)) for a, b in MOVES}
    for study in seen.rows["studies"]:
        state: dict[int | None, str] = {}
        for entry in seen.logs[study.id]:
            if entry.trial is None:
                continue
            before = state.get(entry.trial)
            if before in FINAL and entry.kind not in ("forgotten",):
                yield f"trial {entry.trial} of study id {study.id} was {before}, then came event {entry.n}"
            if entry.kind == "planned":
                state[entry.trial] = "waiting"
            if entry.kind == "moved":
                move = (entry.data["from"], entry.data["to"])
                if move not in legal or entry.data["from"] != before:
                    yield f"event {entry.n} of study id {study.id} moves a {before} trial {' → '.join(move)}"
                state[entry.trial] = entry.data["to"]
        for trial in seen.rows["trials"]:
            if trial.study_id == study.id and state.get(trial.number) != trial.state:
                yield f"trial id {trial.id} is {trial.state}; by its log it is {state.get(trial.number)}"


def the_objective_is_a_number(seen: Seen) -> Iterator[str]:
    """T4, T5b: a complete training's value is the last finite one that its curve says; that of one which was
    run elsewhere is what was told."""
    specs = {s.id: s.spec["objective"] for s in seen.rows["studies"]}
    curves = _last_values(seen)
    for trial in seen.rows["trials"]:
        if trial.state != "complete" or trial.kind != "train":
            continue
        objective = specs[trial.study_id]
        if trial.value is None or not math.isfinite(trial.value):
            yield f"trial id {trial.id} is complete with value {trial.value}"
        elif objective.get("reduce", "last") == "last" and trial.imported is None:
            said = curves.get(trial.id, {}).get(objective["metric"])
            if said != trial.value:
                yield f"trial id {trial.id} is complete with value {trial.value}; it last reported {said}"


def _last_values(seen: Seen) -> dict[int, dict[str, Any]]:
    """trial id → metric → its newest value, without the points that a later attempt has thrown away."""
    reported = seen.trial_rows("reports")
    newest: dict[int, dict[str, Any]] = {}
    for trial_id, tried in seen.trial_rows("attempts").items():
        curve: list[Any] = []
        for attempt in sorted(tried, key=lambda a: a.attempt):
            curve = [p for p in curve if p["step"] <= attempt.resume_step]
            theirs = [r for r in reported.get(trial_id, ()) if r.attempt == attempt.attempt]
            curve += [p for r in sorted(theirs, key=lambda r: r.seq) for p in r.points]
        newest[trial_id] = {name: value for p in curve for name, value in p["metrics"].items()}
    return newest


def everything_ends(seen: Seen) -> Iterator[str]:
    """I6: once faults have stopped all trials end; none runs whose lease ran out two ticks ago."""
    for trial in seen.rows["trials"]:
        if trial.state == "running" and seen.now_us - 2 * seen.tick_us > trial.lease_expires_us:
            late = (seen.now_us - trial.lease_expires_us) / SECOND
            yield f"trial id {trial.id} is running {late:.1f} s after its lease has run out"
        if seen.settled and trial.state not in FINAL:
            yield f"trial id {trial.id} is still {trial.state} although faults have stopped"
    for study in seen.rows["studies"] if seen.settled else ():
        if study.state not in ("complete", "stopped"):
            yield f"study id {study.id} is still {study.state} although faults have stopped"


# --- acknowledged and stored ----------------------------------------------------------------------


def nothing_acknowledged_is_lost(seen: Seen) -> Iterator[str]:
    """I4: every acknowledged write is present exactly once."""
    attempts = {(a.trial_id, a.attempt): a for a in seen.rows["attempts"]}
    for call in seen.acknowledged("claims"):
        if (grant := call.grant) is None:
            continue
        row = attempts.get((grant["trial_id"], grant["attempt"]))
        if row is None or (row.claim_id, row.incarnation) != (call.body["claim_id"], grant["incarnation"]):
            claim = call.body["claim_id"]
            yield f"the grant of claim {claim} is not an attempt of trial id {grant['trial_id']}"
    for what, key in (("reports", _of_report), ("logs", _of_log), ("snapshots", _of_snapshot)):
        stored = Counter(_of_row(what, row) for row in seen.rows[what])
        for call in seen.acknowledged(what):
            n = stored[key(call)]
            if n != 1:
                yield f"{call.client}'s acknowledged write {key(call)} to {what} is there {n} times"
    shown = {(row.trial_id, row.name) for row in seen.rows["artifacts"]}
    for call in seen.acknowledged("artifacts"):
        if call.lease and (call.lease.trial_id, call.body["name"]) not in shown:
            name = call.body["name"]
            yield f"artifact {name} of trial id {call.lease.trial_id} was acknowledged and is not there"
    for what in ("finish", "release"):
        for call in seen.acknowledged(what):
            assert call.lease is not None
            row = attempts.get((call.lease.trial_id, call.lease.attempt))
            told = {name: call.reply[name] for name in ("state", "stop_reason")}
            if row is None or row.outcome != told:
                has = row and row.outcome
                yield f"{call.client}'s {what} was answered {told}; attempt {call.lease} has {has}"
    yield from _people_are_heard(seen)


def _people_are_heard(seen: Seen) -> Iterator[str]:
    studies = {s.id: s for s in seen.rows["studies"]}
    trials = {(t.study_id, t.number): t for t in seen.rows["trials"]}
    ids = {s.name: s.id for s in seen.rows["studies"]}
    for call in seen.acknowledged():
        parts = call.what.split("/")
        if call.method != "POST" or parts[0] != "studies":
            continue
        if len(parts) == 1 and call.reply.get("id") not in studies:
            yield f"study {call.reply.get('id')} was created and is not there"
        if parts[-1] == "trials":
            for number in call.reply["numbers"]:
                if (ids.get(parts[1]), number) not in trials:
                    yield f"trial {number} of {parts[1]} was queued by hand and is not there"
        if parts[-1] == "cancel":
            trial = trials.get((ids.get(parts[1], 0), int(parts[3])))
            if trial is None or trial.state not in FINAL:
                yield f"trial {parts[3]} of {parts[1]} was cancelled and is {trial and trial.state}"


def every_row_was_asked_for(seen: Seen) -> Iterator[str]:
    """I5: every row traces to a request, acknowledged or not known to have failed."""
    if not seen.calls:
        return
    for what, key in (("reports", _of_report), ("logs", _of_log), ("snapshots", _of_snapshot)):
        asked = {key(c) for c in seen.calls if c.what == what and (c.ok or c.maybe)}
        for row in seen.rows[what]:
            if _of_row(what, row) not in asked:
                yield f"nobody asked for {_of_row(what, row)} in {what}"
    claims = {c.body["claim_id"] for c in seen.calls if c.what == "claims" and (c.ok or c.maybe)}
    ends = {
        (c.what, c.lease.trial_id, c.lease.attempt)
        for c in seen.calls
        if c.lease is not None and (c.ok or c.maybe)
    }
    for attempt in seen.rows["attempts"]:
        if attempt.claim_id not in claims:
            place = f"attempt {attempt.attempt} of trial id {attempt.trial_id}"
            yield f"nobody made claim {attempt.claim_id} of {place}"
        what = "release" if attempt.ending == "release" else "finish"
        if attempt.said is not None and (what, attempt.trial_id, attempt.attempt) not in ends:
            yield f"nobody sent the {what} of attempt {attempt.attempt} of trial id {attempt.trial_id}"


def _of_report(call: Call) -> Any:
    assert call.lease is not None
    return call.lease.trial_id, call.lease.attempt, call.body["seq"], str(call.body["points"])


def _of_log(call: Call) -> Any:
    assert call.lease is not None
    digest = hashlib.sha256(call.body["text"].encode()).hexdigest()
    return call.lease.trial_id, call.lease.attempt, call.body["seq"], digest


def _of_snapshot(call: Call) -> Any:
    assert call.lease is not None
    return call.lease.trial_id, call.lease.attempt, call.body["step"], call.body["sha256"]


def _of_row(what: str, row: Row[Any]) -> Any:
    if what == "reports":
        return row.trial_id, row.attempt, row.seq, str(row.points)
    return row.trial_id, row.attempt, row.seq if what == "logs" else row.step, row.sha256


# --- numbers and limits ---------------------------------------------------------------------------


def numbers_and_limits(seen: Seen) -> Iterator[str]:
    """I7: numbers dense and unique, counters right, max_trials and max_concurrent never passed."""
    for study in seen.rows["studies"]:
        name = f"study id {study.id}"
        theirs = [t for t in seen.rows["trials"] if t.study_id == study.id]
        if sorted(t.number for t in theirs) != list(range(study.trial_n)):
            yield f"{name} has trials {sorted(t.number for t in theirs)}; its next number is {study.trial_n}"
        log = seen.logs[study.id]
        if [e.n for e in log] != list(range(1, study.event_n + 1)):
            last = [e.n for e in log][-3:]
            yield f"{name} has events {last} at its end; its newest number is {study.event_n}"
        states = Counter(t.state for t in theirs)
        counted = (study.waiting, study.running, study.finished)
        real = (states["waiting"], states["running"], sum(states[s] for s in FINAL))
        if counted != real:
            yield f"{name} counts (waiting, running, finished) {counted}; its trials are {real}"
        limits = study.spec.get("limits") or {}
        if limits.get("max_trials") is not None and len(theirs) > limits["max_trials"]:
            yield f"{name} has {len(theirs)} trials of at most {limits['max_trials']}"
        most = most_running(log)
        if limits.get("max_concurrent") is not None and most > limits["max_concurrent"]:
            yield f"{name} ran {most} trials at once of at most {limits['max_concurrent']}"


def most_running(log: Sequence[Entry]) -> int:
    running = most = 0
    for entry in log:
        if entry.kind == "moved":
            running += (entry.data["to"] == "running") - (entry.data["from"] == "running")
            most = max(most, running)
    return most


def retries_are_bounded(seen: Seen) -> Iterator[str]:
    """I8: preemption costs no retry; attempts are bounded by what ended them."""
    causes: defaultdict[int, Counter[str]] = defaultdict(Counter)
    for event in seen.rows["events"]:
        if event.kind == "moved" and event.data["from"] == "running":
            causes[event.trial_id][event.cause] += 1
    retries = {s.id: s.spec.get("retries", 2) for s in seen.rows["studies"]}
    for trial in seen.rows["trials"]:
        why = causes[trial.id]
        if trial.preemptions != why["release"]:
            times = why["release"]
            yield f"trial id {trial.id} counts {trial.preemptions} preemptions and was released {times} times"
        failed = why["retry"] + (trial.state == "failed" and why["finish"] > 0)
        if trial.failures > failed:
            yield f"trial id {trial.id} counts {trial.failures} failures and failed {failed} times"
        if trial.failures > retries[trial.study_id] + 1:
            most_ = retries[trial.study_id] + 1
            yield f"trial id {trial.id} failed {trial.failures} times of at most {most_}"
        ended = sum(why.values())
        if trial.attempt != ended + (trial.state == "running"):
            yield f"trial id {trial.id} was claimed {trial.attempt} times, and {ended} attempts ended"


# --- snapshots, decisions, answers ----------------------------------------------------------------


def snapshots_are_whole(seen: Seen) -> Iterator[str]:
    """I9: a committed snapshot's bytes match its hash; an attempt resumes from the newest at its claim."""
    for row in (*seen.rows["snapshots"], *seen.rows["logs"], *seen.rows["artifacts"]):
        if seen.read_blob is None or getattr(row, "forgotten_us", None) is not None:
            continue
        content = seen.read_blob(row.sha256)
        if content is None or hashlib.sha256(content).hexdigest() != row.sha256:
            state = "are missing" if content is None else "hash to something else"
            yield f"the bytes of {row.sha256[:12]}… of trial id {row.trial_id} {state}"
    committed = seen.trial_rows("snapshots")
    starts = {t.id: t.start_snapshot_id for t in seen.rows["trials"]}
    steps = {s.id: s.step for s in seen.rows["snapshots"]}
    for attempt in seen.rows["attempts"]:
        own = [s for s in committed.get(attempt.trial_id, ()) if s.attempt < attempt.attempt]
        if any(s.forgotten_us is not None for s in own):
            continue
        newest = max((s.id for s in own), default=starts[attempt.trial_id])
        wanted = (newest, steps.get(newest, 0))
        if (attempt.resume_snapshot_id, attempt.resume_step) != wanted:
            yield (
                f"attempt {attempt.attempt} of trial id {attempt.trial_id} went on from snapshot and step "
                f"{(attempt.resume_snapshot_id, attempt.resume_step)} where the newest was {wanted}"
            )


def decisions_can_be_made_again(seen: Seen) -> Iterator[str]:
    """I10: replaying the log gives the same decisions."""
    for study in seen.rows["studies"] if seen.judge_decisions else ():
        yield from differences(study.spec, seen.logs[study.id])


def the_audit_chain_holds(seen: Seen) -> Iterator[str]:
    """I11: the entries of the audit log hang together, from the anchor to the head."""
    (ends,) = seen.rows["audit_chain"]
    anchor, head = Link(ends.anchor_n, ends.anchor_hash), Link(ends.head_n, ends.head_hash)
    entries = (Audited(**row._mapping) for row in sorted(seen.rows["audit"], key=lambda row: row.n))
    if broken := first_broken((e for e in entries if e.n > anchor.n), anchor, head):
        yield f"entry {broken.n} of the audit log {broken.why}"


def only_honest_failures(seen: Seen) -> Iterator[str]:
    """I12: no 5xx but 503 and 507."""
    for call in seen.calls:
        if call.status is not None and call.status >= 500 and call.status not in (503, 507):
            yield f"{call.client}'s {call.method} {call.what} was answered {call.status}: {call.reply}"


def acknowledged_stays_in_order(seen: Seen) -> Iterator[str]:
    """Reports of an attempt are numbered 1..n without gap, and events follow their order."""
    ordered = sorted(seen.rows["reports"], key=lambda r: (r.trial_id, r.attempt, r.seq))
    for place, group in groupby(ordered, key=lambda r: (r.trial_id, r.attempt)):
        theirs = list(group)
        if [r.seq for r in theirs] != list(range(1, len(theirs) + 1)):
            yield f"(trial id, attempt) {place} has reports {[r.seq for r in theirs]}"
        if [r.n for r in theirs] != sorted(r.n for r in theirs):
            yield f"(trial id, attempt) {place} has reports in another order than their events"


INVARIANTS: dict[str, Callable[[Seen], Iterator[str]]] = {
    "I1": one_lease_an_attempt,
    "I1 boot": nobody_runs_for_a_worker_of_before,
    "I2": no_write_of_the_dead,
    "I2 expiry": no_early_expiry,
    "I3": one_end,
    "I3 value": the_objective_is_a_number,
    "I4": nothing_acknowledged_is_lost,
    "I4 order": acknowledged_stays_in_order,
    "I5": every_row_was_asked_for,
    "I6": everything_ends,
    "I7": numbers_and_limits,
    "I8": retries_are_bounded,
    "I9": snapshots_are_whole,
    "I10": decisions_can_be_made_again,
    "I11": the_audit_chain_holds,
    "I12": only_honest_failures,
}
