"""Examples that the OpenAPI document shows: one study, followed from its creation to a finished trial."""

from __future__ import annotations

from typing import Any

WORKER_ID = "5f0c8a3e9b7d4c21a6e8f0b1d2c3a4e5"
BOOT_ID = "0b1d2c3a4e55f0c8a3e9b7d4c21a6e8f"
SLOT_ID = "9b7d4c21a6e8f0b1d2c3a4e55f0c8a3e"
CLAIM_ID = "c21a6e8f0b1d2c3a4e55f0c8a3e9b7d4"
SECRET = "a3e9b7d4c21a6e8f0b1d2c3a4e55f0c8"  # noqa: S105
SHA256 = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"

AT = "2026-01-05T09:30:00Z"
LATER = "2026-01-05T09:31:12Z"

REGISTER = {
    "worker_id": WORKER_ID,
    "boot_id": BOOT_ID,
    "starts": 3,
    "name": "gpu-a:0",
    "version": "0.1.0",
    "tasks": {"digits": SHA256},
    "slots": [{"slot_id": SLOT_ID, "devices": ["cuda:0"]}],
}
REGISTERED = {"ttl_seconds": 30.0, "beat_seconds": 10.0, "direct_transfers": False}
CLAIM = {
    "claim_id": CLAIM_ID,
    "worker_id": WORKER_ID,
    "boot_id": BOOT_ID,
    "slot_id": SLOT_ID,
    "secret": SECRET,
    "wait_seconds": 20,
}
PARAMS = {"optimizer": "sgd", "lr": 0.03, "weight_decay": 0.001}
CLAIM_REPLY = {
    "grant": {
        "trial_id": 12,
        "incarnation": 1,
        "attempt": 1,
        "ttl_seconds": 30.0,
        "work": {
            "study": "digits-demo",
            "stage": "coarse",
            "number": 4,
            "task": "digits",
            "params": PARAMS,
            "epochs": 5,
            "seed": 1823,
            "data_fraction": 1.0,
            "stop_at_plateau": False,
            "keep_snapshot": False,
            "snapshot_every_seconds": 600.0,
            "metric": "val/loss",
            "direction": "minimize",
            "resume": None,
        },
    },
    "draining": False,
}
RENEWED = {"ttl_seconds": 30.0}
REPORT = {
    "seq": 1,
    "points": [{"step": 1, "metrics": {"train/loss": 0.91, "val/loss": 0.84, "val/accuracy": 0.77}}],
}
REPORTED = {"duplicate": False, "ttl_seconds": 30.0}
ASK_UPLOAD = {"sha256": SHA256, "size": 524_288_000}
_IN_BUCKET = f"https://s3.eu-central-1.amazonaws.com/weights/lab/{SHA256[:2]}/{SHA256}"
TO_UPLOAD = {
    "stored": False,
    "url": _IN_BUCKET,
    "headers": {
        "Content-Length": "524288000",
        "X-Amz-Date": "20260301T120000Z",
        "X-Amz-Content-SHA256": SHA256,
        "Authorization": "AWS4-HMAC-SHA256 Credential=…, SignedHeaders=…, Signature=…",
    },
}
TO_DOWNLOAD = {"url": f"{_IN_BUCKET}?X-Amz-Expires=900&X-Amz-Signature=…"}
COMMIT_SNAPSHOT = {"step": 5, "sha256": SHA256}
COMMIT_ARTIFACT = {"name": "confusion.json", "sha256": SHA256}
LOG_CHUNK = {"seq": 1, "text": "epoch 1: val/loss 0.84\n"}
FINISH = {"state": "complete", "stop_reason": "budget"}
FINISHED = {"state": "complete", "stop_reason": "budget"}
RELEASE = {"cause": "preempted"}
RELEASED = {"state": "waiting", "stop_reason": None}

SPEC = {
    "name": "digits-demo",
    "task": "digits",
    "objective": {"metric": "val/loss", "direction": "minimize"},
    "space": {
        "lr": {"low": 0.001, "high": 0.3, "log": True},
        "weight_decay": {"low": 0.0001, "high": 0.01, "log": True},
    },
    "fixed": {"optimizer": "sgd"},
    "stages": [{"kind": "coarse_grid", "name": "coarse", "epochs": 5, "axes": {"lr": 4, "weight_decay": 3}}],
}
FORECAST = {"trials": 12, "epochs": 60, "snapshots": 0, "likely_epochs": None, "least_steps": 0}
CREATED = {
    "id": 1,
    "name": "digits-demo",
    "state": "active",
    "forecast": {"coarse": FORECAST},
    "warnings": ["no worker serves task 'digits' now; the study waits for one"],
}
DRY_RUN = {
    "name": "digits-demo",
    "stages": {"coarse": FORECAST},
    "trials": 12,
    "epochs": 60,
    "likely_epochs": 60,
    "snapshots": 0,
    "recipe": None,
    "notes": [],
    "snapshot_bytes": None,
    "warnings": [],
}
CLONE = {"name": "digits-wider", "changes": {"space.lr.high": 1.0, "stages.coarse.epochs": 8}}
DIFFERENCES = [
    {"path": "space.lr.high", "was": 0.3, "now": 1.0},
    {"path": "stages.coarse.epochs", "was": 5, "now": 8},
]
CLONED = CREATED | {"id": 2, "name": "digits-wider", "differences": DIFFERENCES}
CLONE_DRY_RUN = DRY_RUN | {"name": "digits-wider", "differences": DIFFERENCES}
MOVED = {"id": 1, "name": "digits-demo", "state": "paused"}
COUNTS = {"waiting": 2, "running": 2, "complete": 7, "pruned": 1, "failed": 0, "cancelled": 0}
BEST = {"number": 4, "stage": "coarse", "value": 0.353, "params": PARAMS}
SUMMARY = {
    "id": 1,
    "name": "digits-demo",
    "state": "active",
    "reason": None,
    "archived": False,
    "task": "digits",
    "task_digest": SHA256,
    "metric": "val/loss",
    "direction": "minimize",
    "counts": COUNTS,
    "best": BEST,
    "stage": "coarse",
    "blocked_by": None,
    "gpus": 1,
    "gpu_hours": 0.21,
    "created_at": AT,
    "ended_at": None,
}
STAGE: dict[str, Any] = {
    "name": "coarse",
    "kind": "coarse_grid",
    "state": "active",
    "reason": None,
    "counts": COUNTS,
    "forecast": FORECAST,
    "result": None,
    "grounds": {
        "ranges": {"lr": [0.001, 0.3], "weight_decay": [0.0001, 0.01]},
        "steps": {},
        "source": None,
        "trials": [],
    },
    "time": {"seconds": 95.0, "gpu_hours": 0.053},
    "override": None,
    "activated_at": AT,
    "ended_at": None,
}
STUDY = SUMMARY | {
    "stages": [STAGE],
    "spec": SPEC,
    "event_n": 61,
    "waiting_for": None,
    "test_reads": [{"trial": 31, "stage": "final", "nth": 1}],
    "warnings": [],
}
OVERRIDE = {"reason": "the loss is summed on purpose"}
FINDING = {
    "stage": "preflight",
    "kind": "initial_loss",
    "level": "fail",
    "sentence": "The first loss is 4.61, twice log(10) = 2.30.",
    "rule": "within 20 % of log C",
    "next_step": "Average the loss over the batch, and begin with a last layer near zero.",
    "numbers": {"loss": 4.61, "log_classes": 2.303},
    "trials": [0],
}
IMPORT = {
    "stage": "imported",
    "trials": [
        {
            "number": 7,
            "state": "complete",
            "value": 0.31,
            "params": {"lr": 0.03},
            "points": [
                {"step": 1, "metrics": {"val/loss": 0.52}},
                {"step": 2, "metrics": {"val/loss": 0.31}},
            ],
            "attributes": {"note": "before the move to bf16"},
            "started_at": AT,
            "ended_at": LATER,
        }
    ],
}
IMPORTED_TRIALS = {"new": 1}
ADD_STAGE = {"kind": "refine_grid", "name": "refine", "epochs": 20}
STAGE_DRY_RUN = {"stage": ADD_STAGE, "forecast": FORECAST | {"trials": 18, "epochs": 360}}
WHY = {"reason": "the coarse grid is enough"}
ENQUEUE = {"params": [{"lr": 0.02, "weight_decay": 0.0005}], "stage": "coarse"}
ENQUEUED = {"numbers": [13]}
TRIAL = {
    "id": 12,
    "number": 4,
    "stage": "coarse",
    "key": "lr=0.03,weight_decay=0.001",
    "state": "complete",
    "stop_reason": "budget",
    "params": PARAMS,
    "kind": "train",
    "epochs": 5,
    "unit": "epoch",
    "step": 5,
    "value": 0.353,
    "last_metrics": {"train/loss": 0.31, "val/loss": 0.353},
    "attempt": 1,
    "worker": "gpu-a:0",
    "draft": False,
    "hand": False,
    "retry_of": None,
    "variant_of": None,
    "imported": None,
    "test_read": None,
    "start": None,
    "created_at": AT,
    "started_at": AT,
    "ended_at": LATER,
}
ATTEMPT = {
    "attempt": 1,
    "worker": "gpu-a:0",
    "claimed_at": AT,
    "resume_step": 0,
    "ended_at": LATER,
    "ending": "finish",
}
TRIAL_DETAIL = TRIAL | {
    "error": None,
    "attempts": [ATTEMPT],
    "snapshots": [5],
    "artifacts": ["confusion.json"],
    "findings": [{k: v for k, v in FINDING.items() if k != "stage"}],
}
TRIAL_ENDED = {"number": 4, "state": "cancelled", "stop_reason": "cancelled"}
PUT_AWAY = {"id": 1, "name": "digits-demo", "archived": True}
NOTE = {"text": "Above lr 0.3 everything diverges; see #12."}
NOTED = NOTE | {"version": 4}
TAGGED = {"tag": "to present", "trials": 2}
RERUN = {"trials": [12, 13]}
TAGGING = {"trials": [12, 13], "add": ["to present"], "remove": ["odd"]}
CURVE = {"number": 4, "points": [{"step": 1, "metrics": {"train/loss": 0.91, "val/loss": 0.84}}]}
TRIALS = {"items": [TRIAL], "next_cursor": None, "total_estimate": 1}
HISTORY = {
    "metric": "val/loss",
    "direction": "minimize",
    "x": "trial",
    "stages": ["coarse"],
    "number": [0, 1],
    "at": [0, 1],
    "value": [0.91, 0.84],
    "stage": [0, 0],
    "state": ["complete", "complete"],
    "best": {"number": [0, 1], "at": [0, 1], "value": [0.91, 0.84]},
    "infeasible": {"number": [], "at": []},
    "bands": [{"stage": "coarse", "from": 0, "to": 1}],
    "range": [0.84, 0.91],
    "shown": 2,
    "total": 2,
}
LOSSES = {
    "metric": "val/loss",
    "unit": "epoch",
    "groups": ["loss"],
    "group": "loss",
    "lines": [
        {"name": "val/loss", "at": [1, 2], "value": [0.91, 0.84], "lost": []},
        {"name": "train/loss", "at": [1, 2], "value": [0.8, 0.7], "lost": []},
    ],
    "median": {"at": [1], "value": [0.9], "trials": 12},
    "thresholds": [{"name": "prune threshold", "at": [1], "value": [0.9]}],
    "said": "Threshold: median of 12 complete trials of its stage at each step.",
    "end": None,
    "range": [0.7, 0.91],
    "shown": 2,
}
LOG = {"attempt": 1, "seq": 1, "at": AT, "text": "epoch 1: val/loss 0.84\n"}
EVENT = {
    "n": 17,
    "kind": "moved",
    "trial": 4,
    "stage": "coarse",
    "at": AT,
    "actor": "worker:gpu-a:0",
    "cause": "claim",
    "data": {"from": "waiting", "to": "running", "attempt": 1},
}
WORKER = {
    "id": WORKER_ID,
    "name": "gpu-a:0",
    "version": "0.1.0",
    "online": True,
    "draining": False,
    "aside_until": None,
    "tasks": {"digits": SHA256},
    "slots": [{"id": SLOT_ID, "devices": ["cuda:0"]}],
    "running": 1,
    "first_seen_at": AT,
    "last_seen_at": LATER,
}
NEW_TOKEN = {"name": "gpu boxes", "role": "worker"}
TOKEN = {
    "key_id": "5f0c8a3e9b7d4c21",
    "name": "gpu boxes",
    "role": "worker",
    "created_at": AT,
    "expires_at": "2026-02-04T09:30:00Z",
    "last_used_at": None,
    "revoked_at": None,
}
TOKEN_CREATED = {
    "key_id": "5f0c8a3e9b7d4c21",
    "name": "gpu boxes",
    "role": "worker",
    "token": "tsm_5f0c8a3e9b7d4c21_…",
    "expires_at": "2026-02-04T09:30:00Z",
}
SESSION = {
    "key": "9d1c07b2e65fa380",
    "browser": "Firefox on Linux",
    "begun_at": AT,
    "last_seen_at": "2026-01-05T11:02:00Z",
    "expires_at": "2026-01-12T09:30:00Z",
}
NEW_TARGET = {"name": "lab channel", "kind": "webhook", "to": "https://example.org/hooks/tunesmith"}
TARGET = {
    "name": "lab channel",
    "kind": "webhook",
    "to": "https://example.org/…",
    "events": ["study_complete", "stuck"],
    "created_at": AT,
}
TARGET_CREATED = {"name": "lab channel", "secret": "pXk3…"}
TESTED = {"id": "0f8c2b1d9e7a4c6f8b3d5e1a2c4f6b8d"}
DELIVERY = {
    "id": "0f8c2b1d9e7a4c6f8b3d5e1a2c4f6b8d",
    "target": "lab channel",
    "study": "digits-demo",
    "event": "study_complete",
    "text": "digits-demo is complete",
    "state": "delivered",
    "tries": 1,
    "said": "answered 200",
    "created_at": AT,
    "next_at": None,
    "ended_at": "2026-01-05T11:02:00Z",
}
AUDIT_LINK = {"n": 214, "hash": "5b" * 32}
AUDIT_ENDS = {"head": AUDIT_LINK, "anchor": {"n": 0, "hash": "0" * 64}}
AUDIT_ENTRY = {
    "n": 214,
    "at": AT,
    "action": "study.stop",
    "actor": "researcher:ann",
    "key_id": "5f0c8a3e9b7d4c21",
    "address": "192.0.2.7",
    "request_id": "9b7d4c21a6e8f0b1",
    "project_id": 1,
    "subject": "study 1 digits-demo",
    "detail": {"reason": "stopped by researcher:ann"},
    "before": "3c" * 32,
    "after": "9f" * 32,
    "previous": "a1" * 32,
    "hash": "5b" * 32,
}
LOGIN_CODE = {
    "code": "Zk3p…",
    "url": "http://127.0.0.1:8787/ui/login#code=Zk3p…",
    "expires_seconds": 600.0,
}
PROBLEM = {
    "type": "urn:tunesmith:lease_lost",
    "title": "lease lost",
    "status": 409,
    "detail": "attempt 1 of trial 12 ended when its lease expired; claim again",
    "request_id": "5f0c8a3e9b7d4c21",
}

UPLOAD: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}},
    }
}


_NULL = "null, which FastAPI would drop"


def request(value: Any) -> dict[str, Any]:
    """A request body's example, as `Body(openapi_examples=…)` takes it."""
    return {"usual": {"value": _sealed(value)}}


METRICS: dict[int | str, dict[str, Any]] = {
    200: {"description": "Prometheus' text format.", "content": {"text/plain": {
        "schema": {"type": "string"},
        "example": "# TYPE tunesmith_trials_running gauge\ntunesmith_trials_running 8.0\n",
    }}}
}  # fmt: skip


def answer(value: Any, status: int = 200, model: Any = None) -> dict[int | str, dict[str, Any]]:
    """A response's example, to be joined with other `responses`; `model` where the route has several."""
    found: dict[str, Any] = {"content": {"application/json": {"example": _sealed(value)}}}
    return {status: found if model is None else {"model": model, **found}}


def dry_run(value: Any, model: Any) -> dict[int | str, dict[str, Any]]:
    """What a route that creates something answers with `dry_run`."""
    said = "With `dry_run`: what it would run; nothing was changed."
    return {200: {"description": said, **answer(value, 200, model)[200]}}


def page(item: Any) -> dict[int | str, dict[str, Any]]:
    return answer({"items": [item], "next_cursor": None})


def _sealed(value: Any) -> Any:
    """FastAPI leaves out every None of a document, those within examples too: they go in disguise."""
    return _changed(value, None, _NULL)


def unsealed(document: Any) -> Any:
    return _changed(document, _NULL, None)


def _changed(value: Any, old: Any, new: Any) -> Any:
    if isinstance(value, dict):
        return {k: _changed(v, old, new) for k, v in value.items()}
    if isinstance(value, list):
        return [_changed(v, old, new) for v in value]
    return new if value == old and type(value) is type(old) else value
