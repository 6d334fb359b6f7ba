"""From rows to answers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import Connection
from starlette.requests import Request
from tunesmith_studies.grounds import Grounds
from tunesmith_studies.resources import gpus_of
from tunesmith_studies.stages.base import Forecast
from tunesmith_studies.study import StudySpec, forecast
from tunesmith_studies.trial import Work

from tunesmith_service import findings, grounds, store, trial_store
from tunesmith_service.api import models
from tunesmith_service.api.models import moment

HOUR_US = 3_600_000_000


def spec_of(study: store.Study, stages: Sequence[store.StageRow]) -> dict[str, Any]:
    """A study's specification with the stages that were added since."""
    return {**study.spec, "stages": [s.spec for s in stages]}


def whole_spec(conn: Connection, study: store.Study) -> dict[str, Any]:
    """`spec_of`, with every field that this version knows."""
    stages = store.stages(conn, study.id)
    return StudySpec.from_json(spec_of(study, stages)).to_json()


def summary(conn: Connection, study: store.Study) -> models.StudySummary:
    """A study as a list shows it."""
    return models.StudySummary(**_summary(conn, study, store.stages(conn, study.id)))


def detail(conn: Connection, study: store.Study) -> models.Study:
    """A study with its stages."""
    stages = store.stages(conn, study.id)
    spec = spec_of(study, stages)
    planned = forecast(StudySpec.from_json(spec))
    times = findings.stage_times(stages, store.slots_for(conn, study))
    reads = trial_store.test_reads(conn, study.id)
    looks = grounds.of_stages(conn, study, stages)
    return models.Study(
        **_summary(conn, study, stages),
        stages=[_stage(s, planned.get(s.name), times.get(s.name), looks.get(s.name)) for s in stages],
        spec=spec,
        event_n=study.event_n,
        waiting_for=waiting_for(study, offers(conn, study.project_id)),
        test_reads=[models.TestRead.model_validate(r) for r in reads],
        warnings=findings.test_set_warnings(study.task, reads),
    )


@dataclass(slots=True)
class Offer:
    """What live workers have of a task: its digests, each with the devices of the largest slot."""

    digests: dict[str, int] = field(default_factory=dict)

    def add(self, digest: str, devices: int) -> None:
        self.digests[digest] = max(devices, self.digests.get(digest, 0))

    def devices(self, pinned: str | None = None) -> int:
        """Of the largest slot that has the task with this digest; None: with any."""
        return max(n for digest, n in self.digests.items() if pinned in (None, digest))


def offers(conn: Connection, project_id: int) -> dict[str, Offer]:
    """By task, what live workers of a project serve."""
    found: dict[str, Offer] = {}
    for worker in store.workers(conn, project_id):
        if worker.live and not worker.draining and worker.aside_until_us is None:
            devices = max(len(slot["devices"]) for slot in worker.slots)
            for task, digest in worker.tasks.items():
                found.setdefault(task, Offer()).add(digest, devices)
    return found


def waiting_for(study: store.Study, offers: Mapping[str, Offer]) -> str | None:
    """Why an active study's trials do not run, as one sentence; None if nothing is in their way.

    Args:
        offers: by task, what workers serve now.
    """
    if study.state != "active" or study.running:
        return None
    if study.task not in offers:
        return no_worker(study.task, offers)
    if study.task_digest is not None and study.task_digest not in offers[study.task].digests:
        theirs = ", ".join(f"{study.task}@{d[:12]}" for d in sorted(offers[study.task].digests))
        return (
            f"the study began with task {study.task}@{study.task_digest[:12]}; workers now have {theirs}: "
            "code, data or versions changed"
        )
    if gpus_of(study.spec) > (largest := offers[study.task].devices(study.task_digest)):
        return too_small(gpus_of(study.spec), largest)
    return None


def no_worker(task: str, offers: Iterable[str]) -> str:
    listed = ", ".join(sorted(offers)) or "none"
    return f"no worker serves task {task!r} now; the study waits for one (tasks served: {listed})"


def too_small(gpus: int, largest: int) -> str:
    return (
        f"each trial asks for {gpus} GPUs, and the largest slot that serves the task has {largest}: start a "
        f"worker with --devices-per-slot {gpus}"
    )


def _summary(conn: Connection, study: store.Study, stages: Sequence[store.StageRow]) -> dict[str, Any]:
    total: Counter[str] = Counter()
    for stage in stages:
        total.update(stage.counts)
    best = trial_store.best_trials(conn, study)
    same = ("id", "name", "state", "reason", "archived", "task", "task_digest", "direction")
    return {
        **{name: getattr(study, name) for name in same},
        "metric": study.spec["objective"]["metric"],
        "counts": models.Counts(**total),
        "best": ranked(best[0]) if best else None,
        "stage": next((s.name for s in stages if s.state == "active"), None),
        "blocked_by": next((s.name for s in stages if s.blocks), None),
        "gpus": gpus_of(study.spec),
        "gpu_hours": study.gpu_us / HOUR_US,
        "created_at": moment(study.created_us),
        "ended_at": moment(study.ended_us),
    }


def _stage(
    stage: store.StageRow, planned: Forecast | None, time: findings.StageTime | None, looks: Grounds | None
) -> models.Stage:
    return models.Stage(
        name=stage.name,
        kind=stage.kind,
        state=stage.state,
        reason=stage.reason,
        counts=models.Counts(**stage.counts),
        forecast=planned,
        result=None if stage.result is None else dict(stage.result),
        grounds=None if looks is None else models.Grounds(**looks.to_json()),
        time=None if time is None else models.StageTime.model_validate(time),
        override=None if stage.override is None else _override(stage.override),
        activated_at=moment(stage.activated_us),
        ended_at=moment(stage.ended_us),
    )


def _override(told: Mapping[str, Any]) -> models.Override:
    return models.Override(reason=told["reason"], actor=told["actor"], at=moment(told["at_us"]))


def found(told: findings.StageFinding) -> models.StageFinding:
    return models.StageFinding(stage=told.stage, **told.finding.to_json())


def ranked(trial: trial_store.Trial) -> models.Best:
    return models.Best(number=trial.number, stage=trial.stage, value=trial.value, params=trial.params)


def trials(conn: Connection, rows: Sequence[trial_store.Trial], project_id: int) -> list[models.Trial]:
    names = worker_names(conn, project_id)
    return [models.Trial(**_trial(row, names)) for row in rows]


def trial_detail(conn: Connection, row: trial_store.Trial, study: store.Study) -> models.TrialDetail:
    names = worker_names(conn, study.project_id)
    stages, points = store.stages(conn, study.id), trial_store.curve(conn, row.id)
    shown = findings.of_trial(row, points, StudySpec.from_json(spec_of(study, stages)), stages)
    return models.TrialDetail(
        **_trial(row, names),
        error=None if row.error is None else dict(row.error),
        attempts=[
            models.Attempt(
                attempt=a.attempt,
                worker=names.get(a.worker_id),
                claimed_at=moment(a.claimed_us),
                resume_step=a.resume_step,
                ended_at=moment(a.ended_us),
                ending=a.ending,
            )
            for a in trial_store.attempts(conn, row.id)
        ],
        snapshots=list(trial_store.kept_snapshots(conn, row.id)),
        artifacts=[a.name for a in trial_store.artifacts(conn, row.id)],
        findings=[models.Finding(**f.to_json()) for f in shown],
    )


def worker_names(conn: Connection, project_id: int) -> dict[str, str]:
    return {w.id: w.name for w in store.workers(conn, project_id)}


def _trial(row: trial_store.Trial, names: Mapping[str, str]) -> dict[str, Any]:
    same = (
        "id", "number", "stage", "key", "state", "stop_reason", "params", "step", "value", "last_metrics",
        "attempt", "draft", "hand", "retry_of", "variant_of", "start", "kind", "test_read",
        "imported",
    )  # fmt: skip
    return {
        **{name: getattr(row, name) for name in same},
        "tags": list(row.tags or ()),
        "worker": names.get(row.worker_id or ""),
        "epochs": row.work["epochs"],
        "unit": Work.from_json(row.work).unit,
        "created_at": moment(row.created_us),
        "started_at": moment(row.started_us),
        "ended_at": moment(row.ended_us),
    }


def is_known(request: Request, tag: str) -> bool:
    """Whether the client has this version already (If-None-Match)."""
    known = [t.strip().removeprefix("W/") for t in request.headers.get("if-none-match", "").split(",")]
    return f'"{tag}"' in known
