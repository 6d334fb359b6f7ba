"""An Optuna study rebuilt from a stage's trials, for one question of a sampler or a pruner.

Beside `samplers` and `pruners`, which import this inside functions, nothing here may be imported:
Optuna takes a second to load. What is rebuilt is thrown away after the question; only the
translation of single trials is kept, by identity, and may be dropped at any moment.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import optuna
from optuna.distributions import BaseDistribution
from optuna.storages import InMemoryStorage
from optuna.storages._in_memory import _StudyInfo
from optuna.study import Study, StudyDirection
from optuna.trial import FrozenTrial
from optuna.trial import TrialState as OptunaState

from tunesmith_studies.study import Objective
from tunesmith_studies.trial import Trial, TrialState

EPOCH = datetime(2000, 1, 1, tzinfo=UTC)
"""Optuna wants times; nothing that we offer reads them."""

_BY_HAND = 1_000_000
"""Numbers of trials by hand start here, so that planned ones keep their ordinal as their number."""

_STATES = {
    TrialState.COMPLETE: OptunaState.COMPLETE,
    TrialState.PRUNED: OptunaState.PRUNED,
    TrialState.FAILED: OptunaState.FAIL,
    TrialState.CANCELLED: OptunaState.FAIL,
    # A trial that waits will run with just these values: to a sampler it is as good as running.
    TrialState.RUNNING: OptunaState.RUNNING,
    TrialState.WAITING: OptunaState.RUNNING,
}


class RowStorage(InMemoryStorage):
    """Optuna's storage in memory, filled with trials at once and without copying them.

    Optuna's own `create_new_trial` copies each trial deeply and numbers it by its place; here a
    trial keeps its number, and 10,000 of them take milliseconds.
    """

    def __init__(self, name: str, direction: str, trials: Iterable[FrozenTrial]) -> None:
        super().__init__()
        minimize = direction == "minimize"
        directions = [StudyDirection.MINIMIZE if minimize else StudyDirection.MAXIMIZE]
        # As `create_new_study` does, which writes a line of log for each.
        self.study_id = 0
        self._studies[0] = _StudyInfo(name, directions)
        self._study_name_to_id[name] = 0
        self._prev_waiting_trial_number[0] = 0
        rows = self._studies[0].trials = list(trials)
        self._trial_id_to_study_id_and_number = {t._trial_id: (0, place) for place, t in enumerate(rows)}
        self._sign = 1 if minimize else -1

    def get_best_trial(self, study_id: int) -> FrozenTrial:
        """Of equal values Optuna calls the one best that ended first. Looked for only when asked: few do."""
        complete = [t for t in self._studies[study_id].trials if t.state is OptunaState.COMPLETE]
        if not complete:
            raise ValueError("No trials are completed yet.")
        return min(complete, key=lambda t: (self._sign * (t.value or 0.0), t.datetime_complete or EPOCH))

    def put(self, trial: FrozenTrial) -> None:
        trials = self._studies[self.study_id].trials
        self._trial_id_to_study_id_and_number[trial._trial_id] = (self.study_id, len(trials))
        trials.append(trial)


def open_study(
    name: str,
    direction: str,
    trials: Iterable[FrozenTrial],
    sampler: optuna.samplers.BaseSampler | None = None,
) -> Study:
    """A study over these trials; its pruner never prunes, so that samplers see every trial."""
    storage = RowStorage(name, direction, trials)
    return Study(name, storage, sampler or optuna.samplers.RandomSampler(0), optuna.pruners.NopPruner())


def number_of(trial: Trial) -> int:
    """The number that Optuna sees: the ordinal within the stage, which no other study shifts."""
    return _BY_HAND + trial.number if trial.by_hand else trial.ordinal


def frozen(
    trial: Trial,
    objective: Objective,
    *,
    number: int | None = None,
    params: Mapping[str, Any] | None = None,
    distributions: Mapping[str, BaseDistribution] | None = None,
    attributes: Mapping[str, Any] | None = None,
    diverged_value: float | None = None,
) -> FrozenTrial:
    """One trial as Optuna sees it.

    Args:
        number: the ordinal, or what the caller numbers it by.
        params: as Optuna sees them, with their `distributions`; none for pruners.
        attributes: system attributes, such as rungs or a generation.
        diverged_value: tell a diverged trial as complete with this value, not as pruned.
    """
    curve = dict(trial.metric(objective.metric))
    state, value = _STATES[trial.state], trial.value
    if trial.is_diverged and diverged_value is not None:
        state, value = OptunaState.COMPLETE, diverged_value
    elif state is OptunaState.COMPLETE and value is None:
        state = OptunaState.FAIL
    elif state is OptunaState.PRUNED:  # as `Study.tell` does: the last value, unless it is NaN
        value = curve[max(curve)] if curve and not math.isnan(curve[max(curve)]) else None
    ended = EPOCH + timedelta(microseconds=trial.ended_at) if trial.ended_at is not None else None
    return FrozenTrial(
        number=number_of(trial) if number is None else number,
        trial_id=trial.number,
        state=state,
        value=value if state in (OptunaState.COMPLETE, OptunaState.PRUNED) else None,
        datetime_start=EPOCH,
        datetime_complete=ended,
        params=dict(params or {}),
        distributions=dict(distributions or {}),
        user_attrs={},
        system_attrs=dict(attributes or {}),
        intermediate_values=curve,
    )


class Kept:
    """Translations of trials that have not changed since: a cache that may be emptied at any moment.

    A trial is a frozen value, and the log makes a new one for every change, so its identity says
    whether it is the one translated before. Holding on to it keeps its identity its own.
    """

    def __init__(self, most: int = 50_000) -> None:
        self._most = most
        self._kept: dict[str, dict[int, tuple[Trial, FrozenTrial]]] = {}
        self._sets: dict[tuple[str, ...], dict[str, BaseDistribution]] = {}

    def rows(
        self, question: str, trials: Iterable[tuple[int, Trial]], make: Callable[[int, Trial], FrozenTrial]
    ) -> list[FrozenTrial]:
        """`make(number, trial)` of each, or what it gave for them and this question before.

        Rows that have the same parameters share their distributions; a question names those.
        """
        kept = self._kept.setdefault(question, {})
        rows = []
        for number, trial in trials:
            found = kept.get(number)
            if found is None or found[0] is not trial:
                found = kept[number] = (trial, self._sharing(question, make(number, trial)))
            rows.append(found[1])
        if len(self._kept) > 1 and sum(map(len, self._kept.values())) > self._most:
            self.clear()
            self._kept[question] = kept
        return rows

    def clear(self) -> None:
        self._kept.clear()
        self._sets.clear()

    def _sharing(self, question: str, row: FrozenTrial) -> FrozenTrial:
        row._distributions = self._sets.setdefault((question, *row._distributions), row._distributions)
        return row


class OneOfEach:
    """One of Optuna's search spaces that looks at the first trial of each set of distributions only.

    Equal sets tell it nothing new. They are known by identity, as `Kept` shares them; looking at all of
    10,000 trials took a fourth of a suggestion.
    """

    def __init__(self, space: Any) -> None:
        self._space = space

    def calculate(self, study: Study, use_cache: bool = False) -> Any:
        return self._space.calculate(_Few(study))


class _Few:
    """As much of a study as a search space reads."""

    def __init__(self, study: Study) -> None:
        self._study, self._study_id = study, study._study_id

    def _get_trials(self, states: Sequence[OptunaState] | None = None, **_: Any) -> list[FrozenTrial]:
        trials = self._study._get_trials(deepcopy=False, use_cache=True)
        each = {(id(t._distributions), t.state): t for t in trials}.values()
        return [t for t in each if states is None or t.state in states]
