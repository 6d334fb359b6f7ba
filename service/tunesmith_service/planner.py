"""The planner process: a study's log in, proposals and prune verdicts out.

It runs beside the server, niced, because a sampler that thinks holds the interpreter: on the request
path, or in a thread, every heartbeat would wait for it. For the same reason it reads the logs by itself: a
server that handed on 2,000,000 points kept pages waiting for seconds after each start. It writes nothing, and
its clock says only how many drafts are given out at once. Over its standard input come questions, over its
standard output go commands as JSON, one object a line. `planner_link` is the server's end.

In, after a first line {"database": URL}:
  {"study": 7, "spec": {...}}                 a study it does not know (again): begin with an empty log
  {"study": 7, "plan": slots}                 read on and decide; `slots` could run a trial of this study
  {"study": 7, "forget": true}
Out, for each "plan" (first the verdicts, at once, for they are quick and save training time), `at` being the
newest event that was read:
  {"study": 7, "at": n, "commands": [{"do": "prune", ...}], "done": false}
  {"study": 7, "at": n, "commands": [{"do": "propose" | "redraw" | "end_stage" | "fail_stage", ...}],
   "done": true}
or, while the log goes on beyond what is read at once, nothing but
  {"study": 7, "at": n, "commands": [], "done": true, "more": true}
so that other studies have their turn before it is asked again.
"""

from __future__ import annotations

import gc
import json
import logging
import os
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import IO, Any

from sqlalchemy import Engine
from tunesmith_studies.decisions import ask, first_pruned_step, proposal_json
from tunesmith_studies.log import Entry, StudyLog
from tunesmith_studies.planning import Done, Plan, Proposal, Proposals, Wait
from tunesmith_studies.trial import Trial, TrialState

from tunesmith_service import db, event_log

NICE = 10

CHUNK = 5_000
"""Log entries that are read at once."""

DRAWING_SECONDS = 0.1
"""How long drafts are drawn before they are given out. Who waits for the first of them does not wait for all,
and what ends meanwhile is seen sooner: one that a trial's end makes stale was drawn for nothing."""

MANY = 2**31

Command = dict[str, Any]


class StudyPlanner:
    """One study: its log so far, and what follows from it.

    Every answer is a function of the log alone. `tests/service/test_replay.py` asks the same
    questions of a log cut at a proposal's `planned_at` (`tunesmith_studies.decisions`) and expects the
    same bytes.
    """

    def __init__(self, spec: Mapping[str, Any]) -> None:
        self.log = StudyLog(spec)
        self._verdicts: list[Command] = []
        self._broken: dict[str, Command] = {}  # stages whose pruner raised

    def feed(self, entries: Sequence[Entry]) -> None:
        """Fold entries; ask pruners about each new point of trials that still run at the end."""
        moved_on = {e.trial for e in entries if e.kind == "moved"} - {
            e.trial for e in _last_moves(entries) if e.data["to"] == TrialState.RUNNING
        }
        for entry in entries:
            self.log.apply(entry)
            if entry.kind == "reported" and entry.trial is not None and entry.trial not in moved_on:
                self._judge(entry)

    def verdicts(self) -> list[Command]:
        """Prune commands for trials that run; each is given once."""
        given, self._verdicts = self._verdicts, []
        return [v for v in given if self.log.trial(v["trial"]).state is TrialState.RUNNING]

    def decide(self, slots: int, drafts: int = MANY) -> list[Command]:
        """Proposals, redraws and ends of stages that the log asks for now; of drafts the first so many.

        Those that a slot stands idle for come first, alone: it does not wait for what nobody needs yet.
        """
        commands: list[Command] = []
        idle = slots - sum(len(self.log.running(s.name)) for s in self.log.active_stages())
        for stage in self.log.active_stages():
            if stage.name in self._broken:
                commands.append(self._broken[stage.name])
                continue
            waiting = sum(t.state is TrialState.WAITING for t in self.log.trials(stage.name))
            stale = self.log.stale(stage.name)
            room = max(max(slots, 1) - waiting, 0) + len(stale)
            if stage.draws_drafts:
                needed = idle - (waiting - len(stale))
                room = min(room, drafts, needed if needed > 0 else MANY)
            try:
                plan = ask(self.log, stage, room)
            except Exception as error:
                commands.append(_fail(stage.name, "planning", error))
                continue
            commands += _as_commands(plan, stage.name, {t.key: t for t in stale}, self.log.at)
        return commands

    def _judge(self, entry: Entry) -> None:
        trial = self.log.trial(entry.trial or 0)
        stage = self.log.stage(trial.stage)
        if stage.pruner is None or any(v["trial"] == trial.number for v in self._verdicts):
            return
        try:
            step = first_pruned_step(self.log.history(stage.name), stage, trial, len(entry.data["points"]))
        except Exception as error:
            self._broken.setdefault(stage.name, _fail(stage.name, "its pruner", error))
            return
        if step is not None:
            verdict = {"do": "prune", "trial": trial.number, "planned_at": entry.n, "step": step}
            self._verdicts.append(verdict)


def _fail(stage: str, what: str, error: Exception) -> Command:
    """Called while `error` is handled: its traceback goes to the log."""
    reason = f"{what} raised {type(error).__name__}: {error}"
    logging.getLogger(__name__).error("%s: %s\n%s", stage, reason, traceback.format_exc())
    return {"do": "fail_stage", "stage": stage, "reason": reason[:2000]}


def _last_moves(entries: Sequence[Entry]) -> Iterator[Entry]:
    return iter({e.trial: e for e in entries if e.kind == "moved"}.values())


def _as_commands(plan: Plan, stage: str, stale: Mapping[str, Trial], at: int) -> list[Command]:
    if isinstance(plan, Wait):
        return []
    if isinstance(plan, Done):
        return [{"do": "end_stage", "stage": stage, "result": plan.result.to_json(), "planned_at": at}]
    assert isinstance(plan, Proposals)
    return [
        _redraw(p, stale[p.key], at) if p.key in stale else _propose(p, stage, plan.draft, at)
        for p in plan.items
    ]


def _redraw(proposal: Proposal, draft: Trial, at: int) -> Command:
    return {
        "do": "redraw",
        "trial": draft.number,
        "params": dict(proposal.params),
        "sampler_state": dict(proposal.sampler_state),
        "planned_at": at,
    }


def _propose(proposal: Proposal, stage: str, draft: bool, at: int) -> Command:
    return {
        "do": "propose",
        "stage": stage,
        "key": proposal.key,
        "ordinal": proposal.ordinal,
        **proposal_json(proposal),
        "planned_at": at,
        "draft": draft,
    }


class Desk:
    """The studies that the process was told of, and what it says to each message.

    Args:
        engine: of the database that has their logs.
        clock: in seconds.
    """

    def __init__(self, engine: Engine, clock: Callable[[], float] = time.perf_counter) -> None:
        self._engine, self._clock = engine, clock
        self._studies: dict[int, StudyPlanner] = {}
        self._drafts: dict[int, int] = {}  # by study: how many are drawn at once

    def answers(self, message: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
        """Raises what the database does when it is away."""
        study_id = message["study"]
        if "spec" in message:
            self._studies[study_id] = StudyPlanner(message["spec"])
        elif "forget" in message:
            self._studies.pop(study_id, None)
            self._drafts.pop(study_id, None)
        else:
            planner = self._studies[study_id]
            is_more = _read_on(self._engine, study_id, planner)
            said = {"study": study_id, "at": planner.log.at}
            if is_more:
                yield {**said, "commands": [], "done": True, "more": True}
                return
            yield {**said, "commands": planner.verdicts(), "done": False}
            yield {**said, "commands": self._decide(study_id, message["plan"]), "done": True}

    def _decide(self, study_id: int, slots: int) -> list[Command]:
        """What is left out makes itself heard: what was given makes the log grow, and the study due again."""
        began = self._clock()
        commands = self._studies[study_id].decide(slots, self._drafts.get(study_id, 1))
        if commands:
            self._drafts[study_id] = drawn_at_once((self._clock() - began) / len(commands))
        return commands


def drawn_at_once(seconds: float) -> int:
    """How many drafts are drawn before they are given out, if one takes so long."""
    return max(1, int(DRAWING_SECONDS / seconds)) if seconds > 0 else MANY


def _read_on(engine: Engine, study_id: int, planner: StudyPlanner) -> bool:
    """Feed what has come into the study's log since, or a part of it. Returns: whether there may be more."""
    with engine.connect() as conn:
        entries = event_log.entries_since(conn, study_id, planner.log.at, limit=CHUNK)
    planner.feed(entries)
    if len(entries) < CHUNK:
        return False
    gc.freeze()  # what was folded stays; looking through it again and again took a fourth of the time
    return True


def serve(incoming: IO[str], outgoing: IO[str]) -> None:
    """Answer lines until the server closes its end. Raises what the database does when it is away."""
    desk = Desk(db.open_engine(json.loads(incoming.readline())["database"]))
    for line in incoming:
        for answer in desk.answers(json.loads(line)):
            outgoing.write(json.dumps(answer, allow_nan=False) + "\n")
            outgoing.flush()


def main() -> None:
    os.nice(NICE)
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w", encoding="utf-8")
    sys.stdout = sys.stderr  # what a library prints must not mix with the answers
    serve(sys.stdin, answers)


if __name__ == "__main__":
    main()
