"""What of a study's log is worth telling somebody, and in which words; read from the database."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import Connection, and_, exists, func, select

from tunesmith_service import overviews, trial_store
from tunesmith_service.notice_tables import deliveries, targets, told
from tunesmith_service.tables import events, studies, trials

PIECE = 1000
"""Numbers of a log that are looked at together."""

KINDS = ("study", "stage", "moved")

_TARGETS = select(targets).order_by(targets.c.id)


@dataclass(frozen=True, slots=True)
class News:
    """One event that somebody may want to hear of."""

    event: str
    n: int
    at_us: int
    text: str
    trial: int | None = None
    stage: str | None = None


@dataclass(frozen=True, slots=True)
class Piece:
    """What a piece of a study's log has: all its events behind `since`, up to `upto`."""

    study_id: int
    study: str
    since: int
    upto: int
    news: tuple[News, ...]


def all_targets(conn: Connection) -> list[Mapping[str, Any]]:
    return [dict(row._mapping) for row in conn.execute(_TARGETS)]


def pieces(conn: Connection) -> list[Piece]:
    """One of each study that has something new."""
    s = studies.c
    known = func.coalesce(told.c.n, 0)
    wanted = select(s.id, s.name, s.event_n, s.spec, known.label("since")).outerjoin(
        told, told.c.study_id == s.id
    )
    return [_piece(conn, row) for row in conn.execute(wanted.where(s.event_n > known)).all()]


def _piece(conn: Connection, study: Any) -> Piece:
    upto = min(study.event_n, study.since + PIECE)
    e = events.c
    wanted = select(events).where(e.study_id == study.id, e.n > study.since, e.n <= upto, e.kind.in_(KINDS))
    news = [one for event in conn.execute(wanted.order_by(e.n)) for one in _news(conn, study, event)]
    return Piece(study.id, study.name, study.since, upto, tuple(news))


def _news(conn: Connection, study: Any, event: Any) -> Iterator[News]:
    data = event.data
    if event.kind == "moved" and data.get("cause") == "import":
        return  # it happened elsewhere, and some time ago
    if (
        event.kind == "study"
        and "archived" not in data
        and data["state"] in ("complete", "stopped", "paused")
    ):
        why = f": {data['reason']}" if data.get("reason") else ""
        best = "" if data["state"] == "paused" else _best(conn, study.id)
        said = f"{study.name} is {data['state']}{why}{best}"
        yield News(f"study_{data['state']}", event.n, event.at_us, said)
    if event.kind == "stage":
        yield from _of_stage(study, event)
    if event.kind == "moved" and data["to"] == "failed":
        said = f"trial {event.trial_number} of {study.name} failed"
        yield News("trial_failed", event.n, event.at_us, said, event.trial_number, event.stage)
    if event.kind == "moved" and data["to"] == "complete" and data.get("value") is not None:
        yield from _of_value(conn, study, event, float(data["value"]))


def _best(conn: Connection, study_id: int) -> str:
    found = trial_store.best_trials(conn, overviews.visible_study(conn, None, study_id))
    return f"; its best is trial {found[0].number}: {found[0].value:.6g}" if found else ""


def _of_stage(study: Any, event: Any) -> Iterator[News]:
    if event.data["state"] == "failed":
        said = f"stage {event.stage} of {study.name} failed: {event.data.get('reason') or 'nothing to rank'}"
        yield News("stage_failed", event.n, event.at_us, said, None, event.stage)
    found = (event.data.get("result") or {}).get("findings") or []
    grave = [one["sentence"] for one in found if one["level"] == "fail"]
    if grave and event.data["state"] in ("done", "failed"):
        said = f"stage {event.stage} of {study.name} found: {' '.join(grave)}"
        yield News("finding", event.n, event.at_us, said, None, event.stage)


def _of_value(conn: Connection, study: Any, event: Any, value: float) -> Iterator[News]:
    """Whether no other trial that had ended by then is as good."""
    t = trials.c
    rises = study.spec["objective"].get("direction") == "maximize"
    as_good = t.value >= value if rises else t.value <= value
    others = (t.study_id == study.id, t.number != event.trial_number, t.ended_us <= event.at_us)
    if conn.execute(select(t.id).where(*others, t.state == "complete", as_good).limit(1)).first() is None:
        said = f"trial {event.trial_number} is the best of {study.name}: {value:.6g}"
        yield News("new_best", event.n, event.at_us, said, event.trial_number, event.stage)


def stuck(conn: Connection, now_us: int, quiet_us: int) -> list[Piece]:
    """Active studies with trials that wait, none that runs, and nothing that happened for so long; those
    alone of which nobody was told since."""
    s, d = studies.c, deliveries.c
    newest = exists().where(
        events.c.study_id == s.id, events.c.n == s.event_n, events.c.at_us <= now_us - quiet_us
    )
    known = exists().where(d.study_id == s.id, d.n == s.event_n, d.event == "stuck")
    idle = and_(s.state == "active", s.waiting > 0, s.running == 0, newest, ~known, told.c.n == s.event_n)
    wanted = select(s.id, s.name, s.event_n, s.waiting).join(told, told.c.study_id == s.id)
    return [
        Piece(row.id, row.name, row.event_n, row.event_n, (_stuck(row, now_us, quiet_us),))
        for row in conn.execute(wanted.where(idle))
    ]


def _stuck(row: Any, now_us: int, quiet_us: int) -> News:
    said = (
        f"{row.name} has {row.waiting} trials to run, and none runs since {quiet_us // 60_000_000} min;"
        " `tunesmith doctor` says why"
    )
    return News("stuck", row.event_n, now_us, said)


def log_page(conn: Connection, before: int | None, limit: int) -> list[Mapping[str, Any]]:
    """Deliveries, the newest first."""
    d, t = deliveries.c, targets.c
    wanted = select(deliveries, t.name.label("target"), studies.c.name.label("study"))
    wanted = wanted.join(targets, t.id == d.target_id).outerjoin(studies, studies.c.id == d.study_id)
    if before is not None:
        wanted = wanted.where(d.id < before)
    return [dict(row._mapping) for row in conn.execute(wanted.order_by(d.id.desc()).limit(limit))]


def message(study: str, news: News, address: str, study_id: int) -> dict[str, Any]:
    """The body of a webhook, but for the delivery's own id."""
    at = datetime.fromtimestamp(news.at_us / 1e6, UTC).isoformat(timespec="milliseconds")
    return {
        "event": news.event, "at": at.replace("+00:00", "Z"), "study": study, "stage": news.stage,
        "trial": news.trial, "event_n": news.n, "text": news.text, "url": f"{address}/ui/studies/{study_id}",
    }  # fmt: skip
