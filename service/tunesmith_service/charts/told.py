"""A trial in a few words, for whoever points at it in a chart.

    {"number": 24, "stage": "refine", "state": "complete", "reason": "budget", "metric": "val/loss",
     "value": 0.3628, "params": [["lr", "0.005"], ["optimizer", "adam"]]}

`params` are those that the study varies, in its order, as people write them.
"""

from __future__ import annotations

from typing import Any

from tunesmith_service import store
from tunesmith_service.trial_store import Trial
from tunesmith_service.ui import formats


def view(study: store.Study, trial: Trial) -> dict[str, Any]:
    varied = [name for name in study.spec["space"] if name in trial.params]
    return {
        "number": trial.number,
        "stage": trial.stage,
        "state": trial.state,
        "reason": trial.stop_reason,
        "metric": study.spec["objective"]["metric"],
        "value": trial.value,
        "params": [[name, formats.number(trial.params[name], pad=False)] for name in varied],
    }
