"""A study as an Optuna study, with Optuna's own states, values, intermediate values and distributions.

One Optuna study a study of ours, or one for a single stage: trials of other stages were trained longer or
shorter, which an Optuna sampler cannot know. What Optuna has no place for stands in attributes `tunesmith:…`,
of which `optuna_import` makes the same study again. Trials that measure have no objective and are left out.
"""

from __future__ import annotations

import math
import warnings
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

import optuna
from optuna.distributions import BaseDistribution
from optuna.exceptions import ExperimentalWarning
from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial, TrialState
from tunesmith_studies.space import Space
from tunesmith_studies.study import StudySpec

from tunesmith_service.interchange.optuna_space import distribution
from tunesmith_service.interchange.optuna_storage import opened
from tunesmith_service.interchange.points import AlreadyThere, Answer, moment, numbers
from tunesmith_service.study_handle import Study

OURS = "tunesmith:"
"""Attributes of ours begin with this."""
STUDY = f"{OURS}study"

STATES = {
    "waiting": TrialState.WAITING,
    "running": TrialState.RUNNING,
    "complete": TrialState.COMPLETE,
    "pruned": TrialState.PRUNED,
    "failed": TrialState.FAIL,
    "cancelled": TrialState.FAIL,
}
_NOTED = ("number", "stage", "state", "stop_reason", "attempt", "epochs")


@dataclass(frozen=True, slots=True)
class Exported:
    """Attributes:
    name: of the Optuna study.
    trials: that it has.
    left_out: trials that measure.
    """

    name: str
    trials: int
    left_out: int


def export(
    study: Study, storage: str | BaseStorage, *, name: str = "", stage: str = "", overwrite: bool = False
) -> Exported:
    """Write a study, or one stage of it, into a storage.

    Args:
        storage: a URL, a file's name (see `optuna_storage`), or one that is open.
        name: of the Optuna study; default the study's, with `/STAGE` for one stage.
        overwrite: replace an earlier export of this name.
    Raises: AlreadyThere; ValueError for a storage that cannot be opened; Refused and its kinds.
    """
    shown = study.show()
    spec = StudySpec.from_json(shown["spec"])
    if stage and stage not in (known := [s["name"] for s in shown["stages"]]):
        raise ValueError(f"study {study.name} has no stage {stage!r}; it has {', '.join(known)}")
    found = [t for t in study.trials() if stage in ("", t["stage"])]
    trials = [t for t in found if t["kind"] == "train"]
    axes = _axes(spec.space, trials)
    name = name or (f"{shown['name']}/{stage}" if stage else shown["name"])
    with opened(storage, new=True) as there:
        made = _made(there, name, spec.objective.direction, overwrite=overwrite)
        made.set_user_attr(STUDY, {"name": shown["name"], "spec": shown["spec"]})
        with warnings.catch_warnings():  # a name for people alone: no harm if its interface changes
            warnings.simplefilter("ignore", ExperimentalWarning)
            made.set_metric_names([spec.objective.metric])
        for trial in trials:
            points = study.curve(trial["number"]) if trial["step"] or trial["last_metrics"] else []
            curve = {p["step"]: numbers(p["metrics"]).get(spec.objective.metric) for p in points}
            known_curve = {step: value for step, value in curve.items() if value is not None}
            made.add_trial(_frozen(trial, known_curve, axes))
    return Exported(name, len(trials), len(found) - len(trials))


def _made(
    storage: BaseStorage, name: str, direction: Literal["minimize", "maximize"], *, overwrite: bool
) -> optuna.Study:
    if name in optuna.get_all_study_names(storage):
        attributes = optuna.load_study(study_name=name, storage=storage).user_attrs
        if STUDY not in attributes:
            raise AlreadyThere(
                f"the storage has a study {name} that no export of ours made; give this one another --name"
            )
        if not overwrite:
            raise AlreadyThere(
                f"the storage has an export {name} already; replace it with --overwrite, or give this one "
                "another --name"
            )
        optuna.delete_study(study_name=name, storage=storage)
    return optuna.create_study(study_name=name, storage=storage, direction=direction)


def _axes(space: Space, trials: Sequence[Answer]) -> dict[str, BaseDistribution]:
    had: defaultdict[str, list[Any]] = defaultdict(list)
    for trial in trials:
        for name, value in trial["params"].items():
            had[name].append(value)
    return {name: distribution(parameter, had[name]) for name, parameter in space.items()}


def _frozen(trial: Answer, curve: Mapping[int, float], axes: Mapping[str, BaseDistribution]) -> FrozenTrial:
    state, ended = STATES[trial["state"]], trial["ended_at"]
    value = None if trial["value"] is None else float(trial["value"])
    if state is TrialState.PRUNED:  # as Optuna's `tell` does: the last value, unless it is NaN
        last = curve[max(curve)] if curve else math.nan
        value = None if math.isnan(last) else last
    start = trial["started_at"] or (trial["created_at"] if ended else None)
    if state is TrialState.RUNNING:
        start = start or trial["created_at"]
    params = {name: value for name, value in trial["params"].items() if name in axes}
    return FrozenTrial(
        number=-1,  # the storage gives it one
        trial_id=-1,
        state=state,
        value=value,
        datetime_start=_local(start),
        datetime_complete=_local(ended),
        params=params,
        distributions={name: axes[name] for name in params},
        user_attrs=_attributes(trial, axes),
        system_attrs={},
        intermediate_values=dict(curve),
    )


def _attributes(trial: Answer, axes: Mapping[str, BaseDistribution]) -> dict[str, Any]:
    """What it had where it came from, what its newest point said, and what Optuna has no place for."""
    held = {name: value for name, value in trial["params"].items() if name not in axes}
    return {
        **(trial["last_metrics"] or {}),
        **((trial["imported"] or {}).get("attributes") or {}),
        **{OURS + name: trial[name] for name in _NOTED},
        **({f"{OURS}held": held} if held else {}),
    }


def _local(iso: str | None) -> datetime | None:
    """Optuna's times are local ones, without a zone."""
    return None if iso is None else moment(iso).astimezone().replace(tzinfo=None)
