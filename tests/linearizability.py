"""Whether what clients saw is what one lease after another would have shown them: Wing and Gong's search.

A history is split: claims and ends of one trial's leases are checked against a model of one trial, grants
against a model of the study's queue. A history is linearizable if there is an order of its calls, each at
one moment between its begin and its end, in which a model gives every answer. A call without an answer may
have been carried out at any moment after its begin, or never (*maybe*, as in Jepsen).

Source: Wing & Gong 1993, "Testing and verifying concurrent objects"; the memo of (carried out, state) as
in Lowe 2017, "Testing for linearizability", doi:10.1002/cpe.3928.
"""

from __future__ import annotations

import math
import time
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from history import Call
from invariants import FINAL, Rows

State = Hashable
Verdict = Literal["linearizable", "anomaly", "undecided"]

UNDECIDED_SECONDS = 60.0
READS = frozenset({"beat", "nothing", "retake"})
"""What leaves every state as it is."""


@dataclass(frozen=True, slots=True)
class Op:
    """A call as a model takes it.

    Attributes:
        begin, end: seconds; `end` is inf for a call without an answer.
        do, said: what was asked, and what was answered; `said` None: nothing is known.
    """

    begin: float
    end: float
    do: tuple[Any, ...]
    said: Any = None
    client: str = ""


Step = Callable[[State, Op], Iterator[State]]
"""The states that follow from carrying an operation out, none if its answer does not fit the state."""


def check(ops: Sequence[Op], start: State, step: Step, *, seconds: float = UNDECIDED_SECONDS) -> Verdict:
    """Search for an order. Undecided if that takes longer than `seconds`."""
    ordered = sorted(ops, key=lambda op: (op.begin, op.end))
    left = sum(op.said is not None for op in ordered)
    deadline = time.monotonic() + seconds
    seen: set[tuple[Done, State]] = set()
    stack: list[tuple[Done, int, State]] = [(Done(), left, start)]
    while stack:
        done, left, state = stack.pop()
        if (done, state) in seen:
            continue
        seen.add((done, state))
        if not left:
            return "linearizable"
        if time.monotonic() > deadline:
            return "undecided"
        found: list[tuple[Done, int, State]] = []
        for i in sorted(_next(ordered, done), key=lambda i: -ordered[i].end):  # the most urgent at the top
            op = ordered[i]
            follows = [(done.with_(i), left - (op.said is not None), after) for after in step(state, op)]
            if follows and op.do[0] in READS and op.said is not None:
                found = follows  # it fits now and never changes anything: no order needs it later
                break
            found += follows
        stack += found
    return "anomaly"


@dataclass(frozen=True, slots=True)
class Done:
    """Which operations were carried out: all before `first`, and those of the bits from there on."""

    first: int = 0
    bits: int = 0

    def with_(self, i: int) -> Done:
        first, bits = self.first, self.bits | 1 << (i - self.first)
        while bits & 1:
            first, bits = first + 1, bits >> 1
        return Done(first, bits)


def _next(ordered: Sequence[Op], done: Done) -> Iterator[int]:
    """Operations that may be carried out next: those that began before any that is left has ended."""
    first_end = math.inf
    for i in range(done.first, len(ordered)):
        op = ordered[i]
        if op.begin > first_end:
            return
        if not done.bits >> (i - done.first) & 1:
            yield i
            first_end = min(first_end, op.end)


# --- one trial ------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class TrialState:
    """A trial as the holders of its leases can tell.

    Attributes:
        attempt, claim_id: of the newest lease; `open` while that is held.
        final: whether the trial has ended.
        seq: newest report of the newest lease.
        ends: (attempt, what was said, its answer) of each lease that its holder ended.
    """

    attempt: int = 0
    claim_id: str = ""
    open: bool = False
    final: bool = False
    seq: int = 0
    ends: tuple[tuple[int, str, Any], ...] = ()


def trial_step(state: State, op: Op) -> Iterator[State]:
    """What is done: (claim, attempt, claim id), (beat, attempt), (report, attempt, seq), (end, attempt,
    words, its possible answers), (cancel,), (reap, attempt). What is said: ok, duplicate, the name of a
    refusal, or (state, stop_reason) of an end."""
    assert isinstance(state, TrialState)
    for said, after in _answers(state, op.do):
        if op.said is None or op.said == said:
            yield after


def _answers(s: TrialState, do: tuple[Any, ...]) -> Iterator[tuple[Any, TrialState]]:
    match do:
        case ("claim", attempt, claim_id):
            if s.open and (attempt, claim_id) == (s.attempt, s.claim_id):
                yield "ok", s
            elif not s.open and not s.final and attempt == s.attempt + 1:
                yield "ok", TrialState(attempt, claim_id, open=True, ends=s.ends)
        case ("cancel",):
            yield "ok", s if s.final else replace(s, open=False, final=True)
        case ("reap", attempt):
            if s.open and attempt == s.attempt:
                yield "ok", replace(s, open=False)
        case (_, attempt, *_) if not (s.open and attempt == s.attempt):
            yield from _too_late(s, do)
        case ("beat", _):
            yield "ok", s
        case ("report", _, seq) if seq == s.seq + 1:
            yield "ok", replace(s, seq=seq)
        case ("report", _, seq):
            yield ("duplicate" if seq <= s.seq else "seq_gap"), s
        case ("end", attempt, words, possible):
            for answer in possible:
                ends = (*s.ends, (attempt, words, answer))
                yield answer, replace(s, open=False, final=answer[0] in FINAL, ends=ends)


def _too_late(s: TrialState, do: tuple[Any, ...]) -> Iterator[tuple[Any, TrialState]]:
    """First wins: an end said again is answered again, all else is refused."""
    for attempt, words, answer in s.ends:
        if do[0] == "end" and (attempt, words) == (do[1], do[2]):
            yield answer, s
            return
    yield ("already_final" if s.final and do[1] == s.attempt else "lease_lost"), s


def trial_histories(calls: Sequence[Call], rows: Rows) -> dict[int, list[Op]]:
    """trial id → its operations. Whether a claim without an answer was carried out, its row tells; that
    leases expired, and which, the log tells, and they may have done so at any moment that fits."""
    ops: defaultdict[int, list[Op]] = defaultdict(list)
    granted = {a.claim_id: a for a in rows["attempts"]}
    ids = {(s.name, t.number): t.id for s in rows["studies"] for t in rows["trials"] if t.study_id == s.id}
    for call in calls:
        if call.what == "claims" and (row := granted.get(call.body["claim_id"])) is not None:
            if call.grant is not None:
                do = ("claim", call.grant["attempt"], call.body["claim_id"])
                ops[call.grant["trial_id"]].append(Op(call.begin, call.end, do, "ok", call.client))
            elif call.maybe:
                do = ("claim", row.attempt, row.claim_id)
                ops[row.trial_id].append(Op(call.begin, math.inf, do, None, call.client))
        elif call.lease is not None and call.what in ("heartbeat", "reports", "finish", "release"):
            ops[call.lease.trial_id].append(_of_lease(call))
        elif call.what.endswith("/cancel") and (call.ok or call.maybe):
            _, name, _, number, _ = call.what.split("/")
            if (name, int(number)) not in ids:
                continue
            said = "ok" if call.ok else None
            ops[ids[name, int(number)]].append(Op(call.begin, _end(call), ("cancel",), said, call.client))
    for event in rows["events"]:
        if event.kind == "moved" and event.cause == "expired":
            reap = Op(0.0, math.inf, ("reap", event.data["attempt"]), "ok", "sweeper")
            ops[event.trial_id].append(reap)
    return dict(ops)


def _end(call: Call) -> float:
    return math.inf if call.maybe else call.end


def _of_lease(call: Call) -> Op:
    assert call.lease is not None
    attempt = call.lease.attempt
    said: Any = None if call.maybe else call.refusal or "ok"
    if call.what == "heartbeat":
        do: tuple[Any, ...] = ("beat", attempt)
    elif call.what == "reports":
        do = ("report", attempt, call.body["seq"])
        if call.ok and call.reply["duplicate"]:
            said = "duplicate"
    else:
        do = ("end", attempt, f"{call.what} {sorted(call.body.items())}", _possible(call))
        if call.ok:
            said = (call.reply["state"], call.reply["stop_reason"])
    return Op(call.begin, _end(call), do, said, call.client)


def _possible(call: Call) -> tuple[tuple[str, str | None], ...]:
    """How an end may be answered. A training that reported nothing has no objective, so it fails."""
    if call.what == "release":
        return (("waiting", None),)
    if call.body["state"] == "complete":
        return (("complete", call.body["stop_reason"]), ("failed", "error"))
    return ((call.body["state"], call.body["stop_reason"]),)


# --- the queue of one study -----------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Queue:
    """Trials by number: those that wait, and those handed out, of which some leases may have run out."""

    waiting: frozenset[int] = frozenset()
    out: frozenset[int] = frozenset()


def queue_step(state: State, op: Op) -> Iterator[State]:
    """What is done: (put, numbers), (take, number), (retake, number) after a lease that ran out, (nothing,),
    (back, number), (drop, number). A claim takes the least number that waits; it finds nothing only where
    nothing waits. When a backoff ends nobody is told, so a trial may be taken again at any moment."""
    assert isinstance(state, Queue)
    waiting, out = state.waiting, state.out
    match op.do:
        case ("put", numbers):
            yield Queue(waiting | set(numbers), out)
        case ("take", n) if waiting and n == min(waiting):
            yield Queue(waiting - {n}, out | {n})
        case ("retake", n) if n in out:
            yield state
        case ("nothing",) if not waiting:
            yield state
        case ("back", n) if n in out:
            yield Queue(waiting | {n}, out - {n})
        case ("drop", n):
            yield Queue(waiting - {n}, out - {n})


def queue_histories(calls: Sequence[Call], rows: Rows) -> dict[int, list[Op]]:
    """study id → its operations. A claim that found nothing found nothing in each study."""
    ops: dict[int, list[Op]] = {s.id: [] for s in rows["studies"]}
    names = {s.name: s.id for s in rows["studies"]}
    where = {t.id: (t.study_id, t.number) for t in rows["trials"]}
    tries: defaultdict[Any, list[Call]] = defaultdict(list)
    for call in calls:
        parts = call.what.split("/")
        if parts[0] == "studies" and parts[-1] == "trials" and call.ok:
            ops[names[parts[1]]].append(Op(call.begin, call.end, ("put", tuple(call.reply["numbers"])), "ok"))
        elif parts[-1] == "cancel" and (call.ok or call.maybe):
            said = "ok" if call.ok else None
            ops[names[parts[1]]].append(Op(call.begin, _end(call), ("drop", int(parts[3])), said))
        elif call.what == "claims":
            tries[call.body["claim_id"]].append(call)
        elif call.what == "release" and call.lease is not None:
            tries[call.lease.trial_id, call.lease.attempt].append(call)
    put = {
        (study, n) for study, theirs in ops.items() for op in theirs if op.do[0] == "put" for n in op.do[1]
    }
    for study, number in sorted(set(where.values()) - put):  # the answer was lost
        ops[study].append(Op(0.0, math.inf, ("put", (number,)), "ok"))
    expired = {(a.trial_id, a.attempt) for a in rows["attempts"] if a.ending == "expired"}
    for attempt in rows["attempts"]:
        study, number = where[attempt.trial_id]
        how = "retake" if (attempt.trial_id, attempt.attempt - 1) in expired else "take"
        ops[study].append(_once(tries.pop(attempt.claim_id), (how, number)))
        if attempt.ending == "release":
            ops[study].append(_once(tries[attempt.trial_id, attempt.attempt], ("back", number)))
    for call in (c for theirs in tries.values() for c in theirs):
        if call.what == "claims" and call.ok and not call.reply["draining"]:
            for theirs in ops.values():
                theirs.append(Op(call.begin, call.end, ("nothing",), "ok", call.client))
    return ops


def _once(tries: Sequence[Call], do: tuple[Any, ...]) -> Op:
    """What the database says was carried out: after its first try began, before one was told of it."""
    told = [c.end for c in tries if c.grant or (c.ok and c.what == "release")]
    return Op(min(c.begin for c in tries), min(told, default=math.inf), do, "ok", tries[0].client)
