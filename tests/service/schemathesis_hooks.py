"""Loaded by Schemathesis: some requests are led to rows that they may spoil, or made to fit what they name.

`SETTLED` in the environment is JSON: {"lasting": {"study": […], "trial_id": […], …}, "spare": {…},
"reported": […]} by name of a path's parameter; see `rows.py`.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import os
from typing import Any

import schemathesis

ENDS = {
    "finish": "trial_id", "release": "trial_id", "cancel_trial": "number", "prune_trial": "number",
    "stop_study": "study", "archive_study": "study", "delete_study": "study", "skip_stage": "study",
    "revoke_token": "key_id", "report": "trial_id",
}  # fmt: skip
"""What in an operation's path names the row that it ends (or, of reports, that takes each number once)."""
LONG_POLL_SECONDS = 0.05
"""To wait longer for a trial that does not come tells nothing more."""

_settled = json.loads(os.environ["SETTLED"])
_lasting = {name: set(rows) for name, rows in _settled["lasting"].items()}
_spare = {name: itertools.cycle(rows) for name, rows in _settled["spare"].items()}
_reported = itertools.cycle(_settled["reported"])


@schemathesis.hook
def before_call(context: Any, case: Any, kwargs: Any) -> None:
    operation, path, body = case.operation.definition.raw["operationId"], case.path_parameters, case.body
    name = ENDS.get(operation, "")
    if name and path.get(name) in _lasting[name]:
        _take_spare(operation, path, case.query or {}, name)
    if operation == "put_blob" and path.get("sha256") in _lasting["sha256"]:
        content = getattr(body, "data", body)  # bytes that pass for the string of their schema
        if isinstance(content, bytes):
            path["sha256"] = hashlib.sha256(content).hexdigest()
    if operation == "register" and isinstance(body, dict) and path.get("worker_id") in _lasting["worker_id"]:
        named = body.get("worker_id")
        path["worker_id"] = named if isinstance(named, str) and named else path["worker_id"]
    if operation == "claim" and isinstance(body, dict):
        wait = body.get("wait_seconds")
        if isinstance(wait, int | float) and LONG_POLL_SECONDS < wait <= 20:
            body["wait_seconds"] = LONG_POLL_SECONDS


def _take_spare(operation: str, path: Any, query: Any, name: str) -> None:
    was, path[name] = path[name], next(_reported if operation == "report" else _spare[name])
    if operation == "delete_study" and query.get("name") == was:
        query["name"] = path[name]
