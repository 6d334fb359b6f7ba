"""What supervisor and trainer child say to each other: one JSON object a line over a socket.

No torch here: both ends import this. Numbers that are not finite travel as on the wire.
The supervisor starts `python -m tunesmith_workers.child --fd N --threads N [--tasks FILE]…
[--data NAME=FILE]… [--weights NAME=FILE]…`. A file that cannot be used: one line on stderr that says
why, exit code 1.

To the child:
  {"do": "run", "work": <wire.WorkOrder>, "resume": path or null, "members": [paths], "scratch": directory}
                          and in a gang "order", which counts its trials from 1
  {"do": "hand_back"}     finish the step, write a snapshot, end as released
  {"do": "abandon"}       the trial is no longer ours: end as abandoned, at the next batch
From the child:
  {"say": "ready", "tasks": {name: digest}, "devices": [...], "versions": {...}, "rank": 0, "pid": 4711}
                          once, at its start
  {"say": "points", "points": [{"step": 1, "metrics": {"val/loss": 0.31}}]}
  {"say": "snapshot", "path": ..., "step": 3, "batch": 0, "sha256": ..., "size": ..., "final": false}
                          taken after 3 epochs and 0 optimizer steps of the next; the file is the
                          supervisor's from here on: it uploads, then unlinks
  {"say": "log", "text": ...}
  {"say": "artifact", "name": ..., "path": ..., "sha256": ..., "size": ...}
  {"say": "ended", "state": "complete" | "pruned" | "failed" | "released" | "abandoned",
   "stop_reason": ..., "error": null or {"kind", "message", "traceback"}, "retryable": false}
                          always the last word about a trial; after complete or pruned the child is
                          warm for the next one, after any other ending the supervisor replaces it

A slot with several devices has a child for each, started by `python -m tunesmith_workers.torchrun N --connect
PATH …` with the same flags but for `--fd`. All get the orders that are for them; rank 0 alone is told wishes
and says what a trial says, the others say `ready` and `ended`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

RANK_LOST = "rank_lost"
"""Kind of the error of a rank that another does not answer."""


def ranks(work: Mapping[str, Any]) -> int:
    """How many ranks do a work order. What measures (checks, range tests, evaluations) is rank 0's alone."""
    return work.get("gpus") or 1 if work.get("kind", "train") == "train" else 1


def encode(message: Mapping[str, Any]) -> bytes:
    """One line of UTF-8 JSON. Raises ValueError on a float that is not finite and not spelled out."""
    return json.dumps(message, allow_nan=False, separators=(",", ":")).encode() + b"\n"


def decode(line: bytes) -> dict[str, Any]:
    message = json.loads(line)
    if not isinstance(message, dict):
        raise ValueError(f"a message is a JSON object, got {type(message).__name__}")
    return message
