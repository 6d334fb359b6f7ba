"""What each page shows, read in one transaction: `overviews` asks, `views` and `curves` work it out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal
from urllib.parse import urlencode

from pydantic import ValidationError
from sqlalchemy import Connection, Row
from tunesmith_studies.findings import Finding
from tunesmith_studies.study import StudySpec
from tunesmith_studies.trial import StudyState, Work

from tunesmith_service import findings, grounds, overviews, spaces, store, trial_store
from tunesmith_service.conclusion import Chosen, chosen
from tunesmith_service.errors import NotFound
from tunesmith_service.security import Role, Who
from tunesmith_service.sheets import write_names
from tunesmith_service.ui import more_moves, reproducing, stage_cards, study_list, trial_rows, views

PAGE = 50
PARAM_COLUMNS = 8
LOG_CHUNKS = 4
RANGE_TEST = "lr_range_test"
TABLES = ("preflight", "evaluate")
"""Kinds of work whose points are figures of many names, each of them once."""


@dataclass(frozen=True, slots=True)
class StudyView:
    """What the pages of a study and of its trials have in common."""

    row: store.Study
    metric: str
    counts: Mapping[str, int]
    best: views.Best | None
    chosen: Chosen | None
    stages: list[stage_cards.StageView]
    moves: list[views.Move]
    found: list[views.Found]
    warnings: list[str]
    blocked_by: str | None
    may_override: bool
    may_delete: bool
    owner: str
    has_range_tests: bool

    @property
    def id(self) -> int:
        return self.row.id

    @property
    def ranked_stages(self) -> str:
        """Its stages that have a best trial, as a comparison names them; empty for fewer than two."""
        names = [f"{self.id}:{s.name}" for s in self.stages if s.best]
        return write_names(names) if len(names) > 1 else ""


def _counts(stages: Sequence[store.StageRow]) -> dict[str, int]:
    return {state: sum(s.counts.get(state, 0) for s in stages) for state in views.STATES}


def visible(conn: Connection, who: Who, study_id: int) -> store.Study:
    """Raises: NotFound, also for a study of another project."""
    return overviews.visible_study(conn, who.project_id, study_id)


def proposal(conn: Connection, row: store.Study, stage: str, param: str) -> Finding:
    """The finding of a stage that proposes another one along this hyperparameter.

    Raises: NotFound.
    """
    rows = [s for s in store.stages(conn, row.id) if s.name == stage]
    found = (f for s in rows for f in findings.of_stage(s) if param in (f.proposes or {}).get("ranges", ()))
    first = next(found, None)
    if first is None:
        raise NotFound(f"no finding of stage {stage!r} proposes another stage along {param!r}")
    return first


def study(conn: Connection, who: Who, study_id: int) -> StudyView:
    """Raises: NotFound, also for a study of another project."""
    row = visible(conn, who, study_id)
    stages = store.stages(conn, study_id)
    ranked = [_best(t, row.spec) for t in overviews.stage_bests(conn, row)]
    folded = {s.name for s in stages if s.kind == trial_store.FOLDED}
    planned = stage_cards.planned_trials({**row.spec, "stages": [s.spec for s in stages]})
    may_move = who.may(Role.RESEARCHER)
    counts = _counts(stages)
    times = findings.stage_times(stages, store.slots_for(conn, row))
    looks = grounds.of_stages(conn, row, stages)
    bests = {b.stage: b for b in ranked}
    blocked_by = next((s.name for s in stages if s.blocks), None)
    return StudyView(
        row=row,
        metric=row.spec["objective"]["metric"],
        counts=counts,
        best=next((b for b in ranked if b.stage not in folded), None),
        chosen=chosen((s.name, s.kind, s.result) for s in stages),
        stages=[
            stage_cards.stage(s, planned.get(s.name), bests, times.get(s.name), looks.get(s.name))
            for s in stages
        ],
        moves=[
            *views.moves(row.state, row.running, row.waiting, is_blocked=bool(blocked_by)),
            *more_moves.of_study(row.state, counts["failed"], is_archived=row.archived),
        ]
        if may_move
        else [],
        found=views.found(stages),
        warnings=findings.test_set_warnings(row.task, trial_store.test_reads(conn, study_id)),
        blocked_by=blocked_by,
        may_override=may_move and row.state == StudyState.PAUSED,
        may_delete=who.may(Role.ADMIN) and row.ended_us is not None,
        owner=study_list.owner(row.created_by),
        has_range_tests=any(s.kind == RANGE_TEST for s in stages),
    )


def _best(row: trial_store.Trial, spec: Mapping[str, Any]) -> views.Best:
    assert row.value is not None, "only complete trials are ranked"
    params = [(name, row.params[name]) for name in views.varied(spec) if name in row.params]
    command = reproducing.of_trial(str(spec["name"]), row)
    return views.Best(row.number, row.value, row.stage, params, command)


# --- the table of trials --------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Asked:
    """What of the trials a person wants to see; it stands in the page's address."""

    stage: str | None = None
    state: str | None = None
    order: Literal["newest", "best"] = "newest"
    after: int | None = None

    def href(self, **changes: Any) -> str:
        asked = {"stage": self.stage, "state": self.state, "order": self.order, **changes}
        kept = {k: v for k, v in asked.items() if v is not None and (k, v) != ("order", "newest")}
        return f"?{urlencode(kept)}"


@dataclass(frozen=True, slots=True)
class Link:
    label: str
    href: str
    on: bool


@dataclass(frozen=True, slots=True)
class Choice:
    name: str
    links: list[Link]


@dataclass(frozen=True, slots=True)
class Table:
    rows: list[trial_rows.TrialRow]
    params: list[str]
    choices: list[Choice]
    query: str  # of this very page
    first: str | None
    next: str | None
    size: int
    empty: str


def table(conn: Connection, shown: StudyView, asked: Asked, now_us: int) -> Table:
    """A page of the study's trials."""
    best_first = "value" if shown.row.direction == "minimize" else "-value"
    rows = trial_store.trials(
        conn, shown.row, sort="-number" if asked.order == "newest" else best_first,
        filter="value:.." if asked.order == "best" else "",
        stage=asked.stage, state=asked.state, after=asked.after, limit=PAGE + 1,
    )  # fmt: skip
    more, rows = len(rows) > PAGE, rows[:PAGE]
    best = shown.best.number if shown.best else None
    filtered = asked.stage is not None or asked.state is not None or asked.order == "best"
    none_yet = "No trial yet. A worker takes the first as soon as it is planned."
    return Table(
        rows=[trial_rows.trial_row(r, shown.metric, best, now_us) for r in rows],
        params=views.varied(shown.row.spec)[:PARAM_COLUMNS],
        choices=_choices(shown, asked),
        query=asked.href(after=asked.after),
        first=asked.href() if asked.after is not None else None,
        next=asked.href(after=rows[-1].number) if more else None,
        size=PAGE,
        empty="No trial like that." if filtered else none_yet,
    )  # fmt: skip


def _choices(shown: StudyView, asked: Asked) -> list[Choice]:
    stages = [Link("all", asked.href(stage=None), asked.stage is None)]
    stages += [Link(s.name, asked.href(stage=s.name), asked.stage == s.name) for s in shown.stages]
    states = [Link("all", asked.href(state=None), asked.state is None)]
    states += [
        Link(f"{s} {n}", asked.href(state=s), asked.state == s)
        for s, n in shown.counts.items()
        if n or asked.state == s
    ]
    orders = [
        Link("newest first", asked.href(order="newest"), asked.order == "newest"),
        Link("best first", asked.href(order="best"), asked.order == "best"),
    ]
    return [Choice("stage", stages), Choice("state", states), Choice("order", orders)]


# --- one trial ------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class AttemptView:
    attempt: int
    worker: str
    claimed_us: int
    from_where: str
    time_us: int
    ending: str


@dataclass(frozen=True, slots=True)
class TrialView:
    id: int
    row: trial_rows.TrialRow
    worker: str | None
    error: Mapping[str, Any] | None
    settings: list[trial_rows.Setting]
    attempts: list[AttemptView]
    log: Sequence[Row[Any]]  # chunks of the newest attempt's log
    findings: Sequence[Finding]
    artifacts: Sequence[trial_store.Artifact]
    snapshots: Sequence[trial_store.Snapshot]  # those that can be fetched
    tags: Sequence[str]
    moves: Sequence[views.Move]
    may_vary: bool
    measured: Sequence[tuple[str, float]] | None  # of a trial whose points are a table, not a curve


def trial(
    conn: Connection, shown: StudyView, number: int, now_us: int, *, may_move: bool = False
) -> TrialView:
    """Raises: NotFound."""
    row = _trial(conn, shown, number)
    best = trial_store.find_trial(conn, shown.id, shown.best.number) if shown.best else None
    attempts = overviews.attempts_of(conn, row.id)
    stage_state = next(s.state for s in shown.stages if s.name == row.stage)
    return TrialView(
        id=row.id,
        row=trial_rows.trial_row(row, shown.metric, shown.best.number if shown.best else None, now_us),
        worker=attempts[-1].worker if attempts else None,
        error=row.error,
        settings=_settings(row.params, best.params if best else {}, spaces.now(conn, shown.row).spec),
        attempts=[_attempt(a, Work.from_json(row.work).unit, now_us) for a in attempts],
        log=overviews.log_tail(conn, row.id, chunks=LOG_CHUNKS),
        findings=_findings(conn, row, shown),
        artifacts=trial_store.artifacts(conn, row.id),
        snapshots=list(trial_store.kept_snapshots(conn, row.id).values()),
        tags=row.tags or (),
        moves=more_moves.of_trial(row, stage_state) if may_move else [],
        may_vary=may_move and row.kind == "train",
        measured=_measured(conn, row) if row.kind in TABLES else None,
    )


def _measured(conn: Connection, row: trial_store.Trial) -> list[tuple[str, float]]:
    """The newest figure of each name, in the order in which they were first reported."""
    points = trial_store.curve(conn, row.id)
    return list({name: value for p in points for name, value in p.metrics.items()}.items())


def snapshot(conn: Connection, shown: StudyView, number: int, step: int) -> trial_store.Snapshot:
    """Raises: NotFound."""
    return trial_store.snapshot_at(conn, _trial(conn, shown, number), step)


def artifact(conn: Connection, shown: StudyView, number: int, name: str) -> trial_store.Artifact:
    """Raises: NotFound."""
    known = trial_store.artifacts(conn, _trial(conn, shown, number).id)
    found = next((a for a in known if a.name == name), None)
    if found is None:
        raise NotFound(f"trial #{number} has no artifact of that name")
    return found


def _findings(conn: Connection, row: trial_store.Trial, shown: StudyView) -> Sequence[Finding]:
    try:
        spec = StudySpec.from_json(shown.row.spec)
    except ValidationError:  # written by another version
        return ()
    return findings.of_trial(row, trial_store.curve(conn, row.id), spec, store.stages(conn, shown.id))


def _trial(conn: Connection, shown: StudyView, number: int) -> trial_store.Trial:
    row = trial_store.find_trial(conn, shown.id, number)
    if row is None:
        raise NotFound(f"study {shown.row.name} has no trial #{number}")
    return row


def _settings(
    params: Mapping[str, Any], best: Mapping[str, Any], spec: Mapping[str, Any]
) -> list[trial_rows.Setting]:
    try:
        return trial_rows.trial_settings(params, best, StudySpec.from_json(spec))
    except ValidationError:  # written by another version: the values still show
        return [trial_rows.Setting(n, v, None, best.get(n), None, "") for n, v in params.items()]


def _attempt(row: Row[Any], unit: str, now_us: int) -> AttemptView:
    return AttemptView(
        attempt=row.attempt,
        worker=row.worker or row.worker_id[:8],
        claimed_us=row.claimed_us,
        from_where=f"{unit} {row.resume_step}" if row.resume_step else "the start",
        time_us=(row.ended_us or now_us) - row.claimed_us,
        ending=trial_rows.ending(row.ending, row.outcome),
    )
