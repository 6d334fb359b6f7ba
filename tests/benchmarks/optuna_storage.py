"""Fills an Optuna storage with trials that come as JSON on standard input; needs nothing but Optuna.

    python optuna_storage.py sqlite:///FILE < TRIALS

    {"name": "…", "direction": "minimize", "space": {"lr": {"low": 1e-4, "high": 1.0, "log": true}, …},
     "trials": [{"state": "complete", "value": 0.4, "params": {…}, "curve": [[1, 0.9], [2, 0.5]]}]}

`dashboard_race.py` runs it with the Python of optuna-dashboard, so that both have one version of Optuna.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from typing import Any

import optuna
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.trial import FrozenTrial, TrialState, create_trial

STATES = {
    "complete": TrialState.COMPLETE,
    "pruned": TrialState.PRUNED,
    "failed": TrialState.FAIL,
    "waiting": TrialState.WAITING,
}


def distribution(written: Mapping[str, Any]) -> BaseDistribution:
    if written["type"] == "choice":
        return CategoricalDistribution(tuple(written["values"]))
    is_log = bool(written.get("log")) and not written.get("zero")
    if written["type"] == "int":
        return IntDistribution(written["low"], written["high"], log=is_log)
    return FloatDistribution(0.0 if written.get("zero") else written["low"], written["high"], log=is_log)


def frozen(trial: Mapping[str, Any], kinds: Mapping[str, BaseDistribution]) -> FrozenTrial:
    params = {name: trial["params"][name] for name in kinds}
    return create_trial(
        state=STATES[trial["state"]], value=trial["value"], params=params, distributions=dict(kinds),
        intermediate_values={step: float(value) for step, value in trial["curve"]},
    )  # fmt: skip


def main() -> None:
    asked = json.load(sys.stdin)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    kinds = {name: distribution(written) for name, written in asked["space"].items()}
    study = optuna.create_study(storage=sys.argv[1], study_name=asked["name"], direction=asked["direction"])
    study.add_trials([frozen(trial, kinds) for trial in asked["trials"]])


if __name__ == "__main__":
    main()
