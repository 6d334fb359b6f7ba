"""An Optuna study as a study: its finished trials become history, which later stages build on.

Its trials stand in one stage `imported`, numbered as there in their keys. What is told is kept as it is:
states, values, intermediate values, times, user attributes. Left behind: trials that run or wait, and the
private notes of samplers and pruners (`system_attrs`).
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import optuna
from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial, TrialState
from tunesmith_studies.space import Space

from tunesmith_service.client import Client, Conflict
from tunesmith_service.interchange.optuna_export import OURS, STUDY
from tunesmith_service.interchange.optuna_space import space, told, used
from tunesmith_service.interchange.optuna_storage import opened
from tunesmith_service.wire import show_number

STAGE = "imported"
TASK = "imported"
METRIC = "objective"
FINISHED = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL)
MOST_TRIALS, MOST_BYTES = 200, 2_000_000
"""Of one request."""
_STATES = {TrialState.COMPLETE: "complete", TrialState.PRUNED: "pruned", TrialState.FAIL: "failed"}
_EXACT = 2**53


@dataclass(frozen=True, slots=True)
class Found:
    """A study as `POST studies` takes it, and its trials as `POST studies/{study}/import` does.

    Attributes:
        notes: a sentence for each thing that is not as it was.
    """

    spec: dict[str, Any]
    trials: list[dict[str, Any]]
    notes: list[str]


def read(
    storage: str | BaseStorage,
    study: str = "",
    *,
    name: str = "",
    task: str = "",
    metric: str = "",
    epochs: int | None = None,
    objective: int | None = None,
) -> Found:
    """What an Optuna study holds, as a study of ours.

    Args:
        storage: a URL or a file's name, see `optuna_storage`.
        study: its name; may be left out where there is only one.
        name: of the study here; default the same.
        task: what workers train in stages that are added; default that of the study which was exported.
        metric: what its values measure; default Optuna's metric name.
        epochs: how long its trials were; default by the steps of their intermediate values.
        objective: which of several objectives decides, from 0.
    Raises: ValueError that says what cannot come, and why.
    """
    with opened(storage, new=False) as there:
        theirs = optuna.load_study(study_name=_named(there, study), storage=there)
        all_ = theirs.get_trials(deepcopy=False)
    trials = [t for t in all_ if t.state in FINISHED]
    if not trials:
        raise ValueError(f"study {theirs.study_name} has no finished trial among its {len(all_)}")
    which = _objective(theirs, objective)
    metric = metric or (theirs.metric_names[which] if theirs.metric_names else METRIC)
    earlier: dict[str, Any] = theirs.user_attrs.get(STUDY, {}).get("spec") or {}
    steps = [step for t in trials for step in t.intermediate_values]
    length = max(steps, default=0) + (1 if steps and min(steps) == 0 else 0)
    stage = {
        "kind": "imported", "name": STAGE, "trials": len(trials), "epochs": epochs or max(length, 1),
        "origin": f"Optuna study {theirs.study_name}"[:200],
    }  # fmt: skip
    notes = list(told(used((t.params, t.distributions) for t in trials)))
    if left := len(all_) - len(trials):
        notes.append(f"{left} of {len(all_)} trials have not ended in Optuna and are left out.")
    spec = {
        "name": name or theirs.study_name.replace("/", "-"),
        "task": task or earlier.get("task") or TASK,
        "objective": {"metric": metric, "direction": theirs.directions[which].name.lower()},
        "space": _space(earlier, trials),
        "fixed": earlier.get("fixed") or {},
        "stages": [stage],
    }
    return Found(spec, [_trial(t, metric, which) for t in trials], notes)


def bring(client: Client, found: Found) -> int:
    """Create the study and bring its trials; what broke off goes on. Returns: how many are new.

    Raises: Conflict if a study of that name is another one; Unprocessable that says what cannot be.
    """
    name, stage = found.spec["name"], found.spec["stages"][0]
    try:
        id_ = client.post("studies", json=found.spec)["id"]
    except Conflict:
        id_ = next((s["id"] for s in client.pages("studies") if s["name"] == name), None)
        if id_ is None:  # archived
            raise
        there = client.get("studies", id_)
        first = there["spec"]["stages"][0]
        if any(first.get(key) != stage[key] for key in ("kind", "trials", "origin")):
            raise
        if there["stages"][0]["state"] != "active":  # all have come
            return 0
    return sum(
        client.post("studies", id_, "import", json={"stage": STAGE, "trials": some})["new"]
        for some in _batches(found.trials)
    )


def _batches(trials: Sequence[Mapping[str, Any]]) -> Iterator[list[Mapping[str, Any]]]:
    batch: list[Mapping[str, Any]] = []
    size = 0
    for trial in trials:
        its = len(json.dumps(trial))
        if batch and (len(batch) == MOST_TRIALS or size + its > MOST_BYTES):
            yield batch
            batch, size = [], 0
        batch.append(trial)
        size += its
    yield batch


def _named(storage: BaseStorage, study: str) -> str:
    names = optuna.get_all_study_names(storage)
    if study in names:
        return study
    if not study and len(names) == 1:
        return names[0]
    listed = ", ".join(names[:20]) or "none"
    wanted = f"no study {study!r}; it" if study else f"{len(names)} studies, so name one with --study; it"
    raise ValueError(f"the storage has {wanted} has {listed}")


def _objective(study: optuna.Study, which: int | None) -> int:
    """The place of the objective that decides. Raises: ValueError where that must be said."""
    n = len(study.directions)
    if which is None and n == 1:
        return 0
    if which is not None and which < n:
        return which
    names = study.metric_names or [f"values[{i}]" for i in range(n)]
    listed = ", ".join(f"{i} {name}" for i, name in enumerate(names))
    raise ValueError(
        f"study {study.study_name} has {n} objectives ({listed}) and a study here has one; choose it with "
        "--objective, the others become attributes"
    )


def _space(earlier: Mapping[str, Any], trials: Sequence[FrozenTrial]) -> dict[str, Any]:
    """That of the study which was exported, if it holds all that was tried; else made of distributions."""
    if earlier:
        known = Space.model_validate(earlier["space"])
        if all(n in known and known[n].contains(v) for t in trials for n, v in t.params.items()):
            return dict(earlier["space"])
    complete = [t.params for t in trials if t.state is TrialState.COMPLETE]
    return space(used((t.params, t.distributions) for t in trials), complete)


def _trial(trial: FrozenTrial, metric: str, which: int) -> dict[str, Any]:
    attributes = dict(trial.user_attrs)
    values = trial.values
    if values is not None and len(values) > 1:
        attributes["values"] = values
    value = values[which] if values is not None and trial.state is TrialState.COMPLETE else None
    state, reason = _ending(trial, value)
    held = attributes.get(f"{OURS}held") or {}
    points = sorted(trial.intermediate_values.items())
    started, ended = _times(trial)
    return {
        "number": trial.number,
        "state": state,
        "stop_reason": reason,
        "value": value if state == "complete" else None,
        "params": {**trial.params, **held},
        "points": [{"step": step, "metrics": {metric: show_number(v)}} for step, v in points],
        "attributes": _plain({k: v for k, v in attributes.items() if not k.startswith(OURS)}),
        "started_at": started and started.isoformat(),
        "ended_at": ended and ended.isoformat(),
    }


def _times(trial: FrozenTrial) -> tuple[datetime | None, datetime | None]:
    """Start and end. Optuna keeps local times without a zone; in the hour that comes twice in autumn an end
    may seem to lie before its start."""
    started = trial.datetime_start and trial.datetime_start.astimezone()
    ended = trial.datetime_complete and trial.datetime_complete.astimezone()
    if started and trial.datetime_complete and ended and ended < started:
        ended = max(started, trial.datetime_complete.replace(fold=1).astimezone())
    return started, ended


def _ending(trial: FrozenTrial, value: float | None) -> tuple[str, str | None]:
    """As our own export noted it; else what Optuna's state says. An infinite value is a divergence."""
    if value is not None and not math.isfinite(value):
        return "pruned", "diverged"
    state, reason = trial.user_attrs.get(f"{OURS}state"), trial.user_attrs.get(f"{OURS}stop_reason")
    if state == "cancelled" and trial.state is TrialState.FAIL:
        return state, None
    return _STATES[trial.state], reason if state == "pruned" == _STATES[trial.state] else None


def _plain(value: Any) -> Any:
    """JSON as the API takes it: numbers that are not finite, or whole and beyond 2^53, become words.

    >>> _plain({"a": [float("nan"), 2**60]})
    {'a': ['NaN', '1152921504606846976']}
    """
    if isinstance(value, Mapping):
        return {key: _plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    if isinstance(value, float):
        return show_number(value)
    if isinstance(value, int) and abs(value) > _EXACT:
        return str(value)
    return value
