"""CMA-ES whose optimizer is replayed from rows. Optuna keeps it pickled in a trial's attributes."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import numpy as np
from optuna._transform import _SearchSpaceTransform
from optuna.distributions import BaseDistribution
from optuna.samplers import CmaEsSampler
from optuna.study import Study, StudyDirection
from optuna.trial import FrozenTrial


class ReplayedCmaEs(CmaEsSampler):
    """Optuna's CMA-ES with its optimizer rebuilt from what it was told, generation by generation.

    Args:
        memory: by number, each trial's `sampler_state`; one with `solutions` moved the optimizer on.
        options: as CmaEsSampler takes them.
    """

    def __init__(self, memory: Mapping[int, Mapping[str, Any]], **options: Any) -> None:
        super().__init__(**options)
        self._memory = memory
        self._restored: int | None = None
        self._picked: list[list[float]] = []

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        self._study, self._space = study, search_space
        values: dict[str, Any] = super().sample_relative(study, trial, search_space)
        return values

    def remembered(self, attributes: Mapping[str, Any]) -> dict[str, Any]:
        """What a trial with these system attributes has to remember."""
        if f"{self._attr_prefix}generation" not in attributes:
            return {}
        state: dict[str, Any] = {"generation": attributes[f"{self._attr_prefix}generation"]}
        if any(key.startswith(self._attr_key_optimizer) for key in attributes):
            state |= {"from": self._restored, "solutions": self._picked}
        if "x_for_tell" in attributes:
            state["x"] = attributes["x_for_tell"]
        return state

    def _restore_optimizer(self, completed_trials: list[FrozenTrial]) -> Any:
        for trial in reversed(completed_trials):
            if "solutions" in self._memory.get(trial.number, {}):
                self._restored = trial.number
                return self._replay(trial.number, {t.number: t for t in completed_trials})
        return None

    def _get_solution_trials(self, trials: list[FrozenTrial], generation: int) -> list[FrozenTrial]:
        found: list[FrozenTrial] = super()._get_solution_trials(trials, generation)
        size = self._new_optimizer().population_size
        self._picked = [[t.number, t.value or 0.0] for t in found[:size]]
        return found

    def _replay(self, number: int, trials: Mapping[int, FrozenTrial]) -> Any:
        """The optimizer as it stood after the trial `number` was asked for."""
        lineage, at = [], number
        while at is not None:
            lineage.append(self._memory[at]["solutions"])
            at = self._memory[at]["from"]
        optimizer, trans = self._new_optimizer(), self._transform()
        sign = 1 if self._study.direction == StudyDirection.MINIMIZE else -1
        for solutions in reversed(lineage):
            optimizer.tell([(self._place(trials[n], trans), sign * value) for n, value in solutions])
            # Optuna stores it after each generation, and storing keeps half of a symmetric matrix: a
            # copy goes the same way, so that the last digits are the same.
            optimizer = copy.deepcopy(optimizer)
        return optimizer

    def _place(self, trial: FrozenTrial, trans: _SearchSpaceTransform) -> Any:
        if self._with_margin:
            return np.array(trial.system_attrs["x_for_tell"])
        return trans.transform(trial.params)

    def _transform(self) -> _SearchSpaceTransform:
        return _SearchSpaceTransform(self._space, transform_step=not self._with_margin, transform_0_1=True)

    def _new_optimizer(self) -> Any:
        """An optimizer at its beginning, without taking from this sampler's random numbers."""
        state = self._cma_rng.rng.get_state()
        optimizer = self._init_optimizer(self._transform(), self._study.direction)
        self._cma_rng.rng.set_state(state)
        return optimizer
