"""What each audited command is called in the audit log, what it is about, and how that stands before and
after. Whatever stands there goes into a digest; only `tell` ends up in the log in words."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import FromClause, select

from tunesmith_service import admission, notice_tables, notices, session_store, tables, wishes
from tunesmith_service import commands as c
from tunesmith_service.origin import Audited
from tunesmith_service.tx import Tx, lock

MOST_SAID = 200
"""Characters of a reason that the log keeps; the study's own log has all of it."""


@dataclass(frozen=True, slots=True)
class Seen:
    """What an action is about, as the database has it; `value` is None where it is not there.

    `actor` and `key_id` say whose it is, for actions that begin without a token.
    """

    subject: str
    project_id: int | None = None
    value: Any = None
    actor: str = ""
    key_id: str = ""


@dataclass(frozen=True, slots=True)
class Action:
    """`look` is asked before and after; `tell` gets the command and its outcome. What changes nothing leaves
    an entry only where it is worth one, at most every `every_us`."""

    name: str | Callable[[Any], str]
    look: Callable[[Tx, Any], Seen]
    tell: Callable[[Any, Any], Mapping[str, Any]] = lambda command, outcome: {}
    every_us: int | None = None

    def named(self, command: Any) -> str:
        return self.name if isinstance(self.name, str) else self.name(command)


def _plain(row: Any) -> dict[str, Any]:
    return {k: v.hex() if isinstance(v, bytes) else v for k, v in row._mapping.items()}


def _hashes(tx: Tx, table: FromClause, column: str, token_id: int) -> list[str]:
    found = tx.execute(select(table.c[column]).where(table.c.token_id == token_id)).scalars()
    return sorted(h.hex() for h in found)


# --- tokens, sessions -----------------------------------------------------------------------------


def _token(tx: Tx, column: str, value: Any) -> Seen:
    """With its sessions and the codes that would open one."""
    t = tables.tokens
    row = tx.execute(select(t).where(t.c[column] == value)).one_or_none()
    if row is None:
        return Seen(f"token {value}")
    state = _plain(row) | {
        "id": None,
        "last_used_us": None,  # noted by the sweeper, at any time
        "sessions": _hashes(tx, tables.sessions, "session_hash", row.id),
        "codes": _hashes(tx, tables.login_codes, "code_hash", row.id),
    }
    return Seen(
        f"token {row.key_id} {row.name}", row.project_id, state, f"{row.role}:{row.name[:100]}", row.key_id
    )


def _session(tx: Tx, session_hash: bytes) -> Seen:
    subject = f"session {session_store.key_of(session_hash)}"
    found = session_store.behind(tx.conn, session_hash)
    if found is None:
        return Seen(subject)
    state = {"token": found.key_id, "expires_us": found.expires_us}
    return Seen(subject, found.project_id, state, f"{found.role}:{found.name[:100]}", found.key_id)


def _login(command: admission.RedeemLoginCode, outcome: object) -> dict[str, Any]:
    replaced = {} if command.replaces is None else {"replaces": session_store.key_of(command.replaces)}
    return {"browser": command.browser, **replaced}


# --- studies, trials, workers ---------------------------------------------------------------------

_OF_STUDY = (
    "project_id", "name", "state", "reason", "archived", "spec", "priority", "max_concurrent", "max_trials",
    "max_gpu_us", "deadline_us", "trial_n", "hand_n", "note", "note_version",
)  # fmt: skip
_OF_STAGE = ("name", "position", "spec", "state", "reason", "override")


def _study(tx: Tx, study_id: int) -> Seen:
    """Its row is held from here on, so that nobody else's change falls between before and after."""
    lock(tx, [study_id])
    s, g = tables.studies, tables.stages
    row = tx.execute(select(*(s.c[n] for n in _OF_STUDY)).where(s.c.id == study_id)).one_or_none()
    if row is None:
        return Seen(f"study {study_id}")
    stages = select(*(g.c[n] for n in _OF_STAGE)).where(g.c.study_id == study_id).order_by(g.c.position)
    state = _plain(row) | {"stages": [_plain(stage) for stage in tx.execute(stages)]}
    return Seen(f"study {study_id} {row.name}", row.project_id, state)


def _study_named(tx: Tx, command: c.CreateStudy) -> Seen:
    s, name = tables.studies, command.spec["name"]
    same = select(s.c.id).where(s.c.project_id == command.project_id, s.c.name == name)
    study_id = tx.execute(same).scalar_one_or_none()
    return Seen(f"study {name}") if study_id is None else _study(tx, study_id)


def _trials(tx: Tx, study_id: int, numbers: tuple[int, ...]) -> Seen:
    study = _study(tx, study_id)
    t = tables.trials
    wanted = select(t.c.number, t.c.state, t.c.stop_reason, t.c.attempt, t.c.tags)
    rows = tx.execute(wanted.where(t.c.study_id == study_id, t.c.number.in_(numbers)).order_by(t.c.number))
    state = [_plain(row) for row in rows] or None
    what = f"trial {study_id}:{numbers[0]}" if len(numbers) == 1 else f"{len(numbers)} trials of"
    return Seen(f"{what} {study.subject.partition(' ')[2]}", study.project_id, state)


def _worker(tx: Tx, worker_id: str) -> Seen:
    w = tables.workers
    wanted = select(w.c.name, w.c.project_id, w.c.draining, w.c.aside_until_us).where(w.c.id == worker_id)
    row = tx.execute(wanted).one_or_none()
    if row is None:
        return Seen(f"worker {worker_id}")
    return Seen(f"worker {worker_id} {row.name}", row.project_id, _plain(row))


def _said(command: Any, outcome: object) -> dict[str, Any]:
    stage = {"stage": command.stage} if hasattr(command, "stage") else {}
    return {**stage, "reason": command.reason[:MOST_SAID]}


def _queued(command: Any, outcome: Any) -> dict[str, Any]:
    """Numbers of trials; of many the first and the last, between which none is missing."""
    return {"trials": outcome if len(outcome) <= 2 else [outcome[0], "…", outcome[-1]]}


# --- the database itself --------------------------------------------------------------------------


def _target(tx: Tx, x: notices.AddTarget | notices.RemoveTarget) -> Seen:
    t = notice_tables.targets
    row = tx.execute(select(t).where(t.c.name == x.name)).one_or_none()
    return Seen(
        f"target {x.name}", None, None if row is None else {k: v for k, v in _plain(row).items() if k != "id"}
    )


def _instance(tx: Tx) -> Seen:
    row = tx.execute(select(tables.instance.c.uuid, tables.instance.c.incarnation)).one()
    return Seen(f"database {row.uuid}", None, _plain(row))


def _restored(command: c.BeginIncarnation, outcome: tuple[int, int]) -> dict[str, Any]:
    was, now = outcome
    return {"how": command.how, "copied_us": command.copied_us, "incarnation": now, "was": was}


_MOVES = {"active": "study.resume", "paused": "study.pause", "stopped": "study.stop"}

ACTIONS: dict[type[Audited], Action] = {
    admission.CreateToken: Action(
        "token.create",
        lambda tx, x: _token(tx, "key_id", x.key_id),
        lambda x, _: {"role": x.role, "expires_us": x.expires_us},
    ),
    admission.RevokeToken: Action("token.revoke", lambda tx, x: _token(tx, "key_id", x.key_id)),
    admission.CreateLoginCode: Action("login.code", lambda tx, x: _token(tx, "id", x.token_id)),
    admission.RedeemLoginCode: Action("session.begin", lambda tx, x: _session(tx, x.session_hash), _login),
    admission.EndSession: Action("session.end", lambda tx, x: _session(tx, x.session_hash)),
    admission.EndSessions: Action("session.end_all", lambda tx, x: _token(tx, "id", x.token_id)),
    admission.NoteRefusal: Action(
        lambda x: "token.refused" if x.key_id else "login.refused",
        lambda tx, x: _token(tx, "key_id", x.key_id) if x.key_id else Seen("login code"),
        lambda x, _: {"why": x.why, "tries": x.tries},
        every_us=admission.REFUSED_EVERY_US,
    ),
    c.CreateStudy: Action(
        "study.create",
        _study_named,
        lambda x, _: {} if x.cloned_from is None else {"cloned_from": x.cloned_from},
    ),
    c.MoveStudy: Action(lambda x: _MOVES[x.state], lambda tx, x: _study(tx, x.study_id), _said),
    wishes.PutAway: Action(
        lambda x: "study.archive" if x.archived else "study.unarchive", lambda tx, x: _study(tx, x.study_id)
    ),
    wishes.DeleteStudy: Action(
        "study.delete", lambda tx, x: _study(tx, x.study_id), lambda x, is_gone: {"whole": is_gone}
    ),
    wishes.WriteNote: Action(
        "study.note", lambda tx, x: _study(tx, x.study_id), lambda x, version: {"version": version}
    ),
    c.AddStage: Action(
        "stage.add",
        lambda tx, x: _study(tx, x.study_id),
        lambda x, _: {"stage": str(x.stage.get("name") or x.stage["kind"])},
    ),
    c.SkipStage: Action("stage.skip", lambda tx, x: _study(tx, x.study_id), _said),
    c.OverrideStage: Action("stage.override", lambda tx, x: _study(tx, x.study_id), _said),
    c.Enqueue: Action("trial.enqueue", lambda tx, x: _study(tx, x.study_id), _queued),
    wishes.Retry: Action("trial.retry", lambda tx, x: _study(tx, x.study_id), _queued),
    wishes.ImportTrials: Action(
        "trial.import",
        lambda tx, x: _study(tx, x.study_id),
        lambda x, new: {"stage": x.stage, "trials": new},
    ),
    c.CancelTrial: Action("trial.cancel", lambda tx, x: _trials(tx, x.study_id, (x.trial,))),
    wishes.PruneNow: Action("trial.prune", lambda tx, x: _trials(tx, x.study_id, (x.trial,))),
    wishes.TagTrials: Action(
        "trial.tag",
        lambda tx, x: _trials(tx, x.study_id, x.trials),
        lambda x, _: {"add": list(x.add), "remove": list(x.remove)},
    ),
    c.DrainWorker: Action(
        lambda x: "worker.drain" if x.draining else "worker.undrain",
        lambda tx, x: _worker(tx, x.worker_id),
    ),
    notices.AddTarget: Action("target.add", _target, lambda x, _: {"kind": x.kind, "events": list(x.events)}),
    notices.RemoveTarget: Action("target.remove", _target),
    c.BeginIncarnation: Action("database.restore", lambda tx, _: _instance(tx), _restored),
    admission.TrimAudit: Action(
        "audit.trim",
        lambda tx, x: _chain(tx),
        lambda x, removed: {"until": removed.n, "hash": removed.hash},
    ),
}
"""Every command that people may ask for, and what makes or ends their rights."""


def _chain(tx: Tx) -> Seen:
    row = tx.execute(select(tables.audit_chain.c.anchor_n)).one_or_none()
    return Seen("audit log", None, None if row is None else _plain(row))
