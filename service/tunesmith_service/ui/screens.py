"""What each page shows, read in one transaction: `overviews` asks, `views` and `curves` work it out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode

from pydantic import ValidationError
from sqlalchemy import Connection, Row
from tunesmith_studies import rates
from tunesmith_studies.findings import Finding
from tunesmith_studies.planning import StageResult
from tunesmith_studies.study import StudySpec
from tunesmith_studies.trial import Point, StudyState, TrialState, Work

from tunesmith_service import findings, overviews, reading, store, trial_store
from tunesmith_service.conclusion import Chosen, chosen
from tunesmith_service.errors import NotFound
from tunesmith_service.security import Role, Who
from tunesmith_service.ui import curves, views

PAGE = 50
BEST_CURVES = 10
RUNNING_CURVES = 10
PARAM_COLUMNS = 8
LOG_CHUNKS = 4
RANGE_TEST = "lr_range_test"
RANGE_TESTS = 20
LOSS = "train/loss"
TABLES = ("preflight", "evaluate")
"""Kinds of work whose points are figures of many names, each of them once."""


@dataclass(frozen=True, slots=True)
class StudyItem:
    """A line of the list of studies."""

    row: store.Study
    metric: str
    stages: Sequence[store.StageRow]
    now: str
    best: trial_store.Trial | None
    counts: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class StudyView:
    """What the pages of a study and of its trials have in common."""

    row: store.Study
    metric: str
    counts: Mapping[str, int]
    best: views.Best | None
    chosen: Chosen | None
    stages: list[views.StageView]
    moves: list[views.Move]
    found: list[views.Found]
    warnings: list[str]
    blocked_by: str | None
    may_override: bool
    has_range_tests: bool

    @property
    def id(self) -> int:
        return self.row.id


def _counts(stages: Sequence[store.StageRow]) -> dict[str, int]:
    return {state: sum(s.counts.get(state, 0) for s in stages) for state in views.STATES}


def studies_list(conn: Connection, who: Who, before: int | None) -> tuple[list[StudyItem], int | None]:
    """A page of studies, and the id to go on below if there are more."""
    rows = store.studies(conn, who.project_id, before=before, limit=PAGE + 1)
    more, rows = len(rows) > PAGE, rows[:PAGE]
    return [_item(conn, row) for row in rows], rows[-1].id if more else None


def _item(conn: Connection, row: store.Study) -> StudyItem:
    stages = store.stages(conn, row.id)
    return StudyItem(
        row=row,
        metric=row.spec["objective"]["metric"],
        stages=stages,
        now=views.now(stages),
        best=next(iter(trial_store.best_trials(conn, row)), None),
        counts=_counts(stages),
    )


def study(conn: Connection, who: Who, study_id: int) -> StudyView:
    """Raises: NotFound, also for a study of another project."""
    row = overviews.visible_study(conn, who.project_id, study_id)
    if row is None:
        raise NotFound(f"there is no study {study_id}")
    stages = store.stages(conn, study_id)
    ranked = [_best(t, row.spec) for t in overviews.stage_bests(conn, row)]
    folded = {s.name for s in stages if s.kind == trial_store.FOLDED}
    planned = views.planned_trials(row.spec)
    may_move = who.may(Role.RESEARCHER)
    times = findings.stage_times(stages, store.slots_for(conn, row))
    blocked_by = next((s.name for s in stages if s.blocks), None)
    return StudyView(
        row=row,
        metric=row.spec["objective"]["metric"],
        counts=_counts(stages),
        best=next((b for b in ranked if b.stage not in folded), None),
        chosen=chosen((s.name, s.kind, s.result) for s in stages),
        stages=[
            views.stage(s, planned.get(s.name), {b.stage: b for b in ranked}, times.get(s.name))
            for s in stages
        ],
        moves=views.moves(row.state, row.running, row.waiting, is_blocked=bool(blocked_by))
        if may_move
        else [],
        found=views.found(stages),
        warnings=findings.test_set_warnings(row.task, trial_store.test_reads(conn, study_id)),
        blocked_by=blocked_by,
        may_override=may_move and row.state == StudyState.PAUSED,
        has_range_tests=any(s.kind == RANGE_TEST for s in stages),
    )


def _best(row: trial_store.Trial, spec: Mapping[str, Any]) -> views.Best:
    assert row.value is not None, "only complete trials are ranked"
    params = [(name, row.params[name]) for name in views.varied(spec) if name in row.params]
    return views.Best(row.number, row.value, row.stage, params)


# --- the table of trials --------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Asked:
    """What of the trials a person wants to see; it stands in the page's address."""

    stage: str | None = None
    state: str | None = None
    order: overviews.Order = "newest"
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
    rows: list[views.TrialRow]
    params: list[str]
    choices: list[Choice]
    query: str  # of this very page
    first: str | None
    next: str | None
    size: int
    empty: str


def table(conn: Connection, shown: StudyView, asked: Asked, now_us: int) -> Table:
    """A page of the study's trials."""
    rows = overviews.trials_page(
        conn, shown.row, order=asked.order, stage=asked.stage, state=asked.state, after=asked.after,
        limit=PAGE + 1,
    )  # fmt: skip
    more, rows = len(rows) > PAGE, rows[:PAGE]
    best = shown.best.number if shown.best else None
    filtered = asked.stage is not None or asked.state is not None or asked.order == "best"
    none_yet = "No trial yet. A worker takes the first as soon as it is planned."
    return Table(
        rows=[views.trial_row(r, shown.metric, best, now_us) for r in rows],
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
    row: views.TrialRow
    worker: str | None
    error: Mapping[str, Any] | None
    settings: list[views.Setting]
    attempts: list[AttemptView]
    log: Sequence[Row[Any]]  # chunks of the newest attempt's log
    findings: Sequence[Finding]
    artifacts: Sequence[trial_store.Artifact]
    measured: Sequence[tuple[str, float]] | None  # of a trial whose points are a table, not a curve


def trial(conn: Connection, shown: StudyView, number: int, now_us: int) -> TrialView:
    """Raises: NotFound."""
    row = _trial(conn, shown, number)
    best = trial_store.find_trial(conn, shown.id, shown.best.number) if shown.best else None
    attempts = overviews.attempts_of(conn, row.id)
    return TrialView(
        id=row.id,
        row=views.trial_row(row, shown.metric, shown.best.number if shown.best else None, now_us),
        worker=attempts[-1].worker if attempts else None,
        error=row.error,
        settings=_settings(row.params, best.params if best else {}, shown.row.spec),
        attempts=[_attempt(a, Work.from_json(row.work).unit, now_us) for a in attempts],
        log=overviews.log_tail(conn, row.id, chunks=LOG_CHUNKS),
        findings=_findings(conn, row, shown),
        artifacts=trial_store.artifacts(conn, row.id),
        measured=_measured(conn, row) if row.kind in TABLES else None,
    )


def _measured(conn: Connection, row: trial_store.Trial) -> list[tuple[str, float]]:
    """The newest figure of each name, in the order in which they were first reported."""
    points = trial_store.curve(conn, row.id)
    return list({name: value for p in points for name, value in p.metrics.items()}.items())


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
) -> list[views.Setting]:
    try:
        return views.trial_settings(params, best, StudySpec.from_json(spec))
    except ValidationError:  # written by another version: the values still show
        return [views.Setting(n, v, None, best.get(n), None, "") for n, v in params.items()]


def _attempt(row: Row[Any], unit: str, now_us: int) -> AttemptView:
    return AttemptView(
        attempt=row.attempt,
        worker=row.worker or row.worker_id[:8],
        claimed_us=row.claimed_us,
        from_where=f"{unit} {row.resume_step}" if row.resume_step else "the start",
        time_us=(row.ended_us or now_us) - row.claimed_us,
        ending=views.ending(row.ending, row.outcome),
    )


# --- curves ---------------------------------------------------------------------------------------


def study_curves(conn: Connection, shown: StudyView, metric: str, base: str) -> dict[str, Any]:
    """The best trials' and the running ones' curves of one metric; see `curves`. Trials that count steps
    are drawn over the epochs that they did, beside those that count epochs."""
    best = trial_store.best_trials(conn, shown.row, limit=BEST_CURVES)
    running = overviews.running_trials(conn, shown.row, limit=RUNNING_CURVES)
    found = reading.curves(conn, [r.id for r in (*best, *running)])
    names = {name for r in (*best, *running) for name in r.last_metrics or {}}
    metric = metric if metric in names else shown.metric
    lines = [
        curves.Line(
            label=f"#{r.number}",
            points=_by_epoch(r, found.get(r.id, []), metric),
            href=f"{base}/studies/{shown.id}/trials/{r.number}",
            about=r.stage,
            state=r.state,
            rank=rank if r.state == TrialState.COMPLETE else None,
        )
        for rank, r in enumerate((*best, *running))
    ]
    return curves.view(metric, _sorted(names, shown.metric), lines)


def _by_epoch(row: trial_store.Trial, points: Sequence[Point], metric: str) -> list[tuple[float, float]]:
    if Work.from_json(row.work).unit == "epoch":
        return _points(points, metric)
    return [(p.metrics.get("sys/epoch", p.step), p.metrics[metric]) for p in points if metric in p.metrics]


def trial_curves(conn: Connection, shown: StudyView, number: int, metric: str) -> dict[str, Any]:
    """A trial's metrics, those that differ only in their split in one chart: val/loss with train/loss.
    Of a range test, the loss over the rate."""
    row = _trial(conn, shown, number)
    if row.kind == "range_test":
        return _range_tests(conn, [row], shown, "")
    points = trial_store.curve(conn, row.id)
    names = sorted({name for p in points for name in p.metrics})
    groups = sorted({_group(n) for n in names}, key=lambda g: (g != _group(shown.metric), g))
    group = next((g for g in (_group(metric), _group(shown.metric), *groups) if g in groups), "")
    lines = [
        curves.Line(label=name, points=_points(points, name), state=row.state, role=name.partition("/")[0])
        for name in sorted(names, reverse=True)
        if _group(name) == group
    ]
    axis = curves.EPOCHS if Work.from_json(row.work).unit == "epoch" else curves.STEPS
    return curves.view(group, groups, lines, axis=axis)


def range_tests(conn: Connection, shown: StudyView, base: str) -> dict[str, Any]:
    """Loss over rate of the study's range tests, with the rates that they suggest."""
    rows = overviews.trials_of_kind(conn, shown.row, "range_test", limit=RANGE_TESTS)
    return _range_tests(conn, rows, shown, base)


def _range_tests(
    conn: Connection, rows: Sequence[trial_store.Trial], shown: StudyView, base: str
) -> dict[str, Any]:
    found = reading.curves(conn, [r.id for r in rows])
    lines = [
        curves.Line(
            label=f"#{r.number}",
            points=[
                (p.metrics["sys/lr"], p.metrics[LOSS])
                for p in found.get(r.id, [])
                if "sys/lr" in p.metrics and LOSS in p.metrics
            ],
            href=f"{base}/studies/{shown.id}/trials/{r.number}" if base else "",
            about=", ".join(f"{n} {r.params[n]}" for n in ("optimizer", "momentum") if n in r.params),
            state=r.state,
            rank=i if len(rows) > 1 else None,
        )
        for i, r in enumerate(rows)
    ]
    results = {s.name: s.result for s in store.stages(conn, shown.id) if s.result}
    told: list[rates.Suggestion] = []
    for r in rows:
        if r.stage in results:
            every = rates.suggestions(StageResult.from_json(results[r.stage]))
            told += [s for s in every if s.fits(r.params) and s not in told]
    return curves.view(LOSS, [LOSS], lines, axis=curves.RATES, marks=views.suggested(told))


def _group(metric: str) -> str:
    return metric.partition("/")[2] or metric


def _points(points: Sequence[Point], metric: str) -> list[tuple[float, float]]:
    return [(p.step, p.metrics[metric]) for p in points if metric in p.metrics]


def _sorted(names: set[str], first: str) -> list[str]:
    """The objective's metric, then validation, training, and what the machine says of itself."""
    splits = ("val", "train")
    place = {n: splits.index(s) if (s := n.partition("/")[0]) in splits else len(splits) for n in names}
    return sorted(names, key=lambda n: (n != first, place[n], n))
