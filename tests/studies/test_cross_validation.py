"""Cross-validation: the same folds for all, paired comparison, the cheaper of what is tied."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from contracts import COMPLETE, Ending, Runner
from pydantic import ValidationError
from tunesmith_studies.log import StudyLog
from tunesmith_studies.planning import Done, Wait
from tunesmith_studies.stages import Sampler
from tunesmith_studies.stages.repeats import Repeats, best_first, cheapest
from tunesmith_studies.statistics import spread
from tunesmith_studies.study import StudySpec
from tunesmith_studies.trial import Point, Trial, TrialState, Work

COARSE = {"kind": "coarse_grid", "epochs": 2, "axes": {"lr": [0.01, 0.1, 1.0]}}
FOLDS = [0.02, -0.01, 0.03, 0.0, -0.04]
"""What a fold adds to every candidate: some parts are harder than others."""


class Folded(Runner):
    """Runs whose value depends on the rate, on how hard the fold is, and on both by `mixed`."""

    def __init__(self, **stage: Any) -> None:
        space = {"lr": {"low": 1e-3, "high": 1.0, "log": True}}
        stages = [COARSE, {"kind": "cross_validation", "epochs": 4, **stage}]
        super().__init__(
            StudySpec.model_validate({"name": "s", "task": "digits", "space": space, "stages": stages})
        )
        self.levels = {0.01: 0.4, 0.1: 0.2, 1.0: 0.21}
        self.mixed = 0.0

    def end(self, number: int, ending: Ending = COMPLETE, *, epochs: int | None = None) -> None:
        trial = self.log.trial(number)
        lr = float(trial.params["lr"])
        fold = trial.work.fold[0] if trial.work.fold else 3
        value = self.levels[lr] + FOLDS[fold] + (self.mixed * (-1) ** fold if lr == 1.0 else 0)
        self.objective = lambda params, epoch: value
        super().end(number, ending, epochs=epochs)

    def validated(self, **run: Any) -> Done:
        self.run("coarse_grid")
        return self.run("cross_validation", **run)


def test_every_candidate_runs_every_fold_with_one_seed() -> None:
    runner = Folded()
    runner.validated()
    trials = runner.log.trials("cross_validation")
    folds: dict[float, set[tuple[int, int] | None]] = {}
    for trial in trials:
        folds.setdefault(float(trial.params["lr"]), set()).add(trial.work.fold)
    assert folds == {lr: {(i, 5) for i in range(5)} for lr in (0.01, 0.1, 1.0)}
    assert len({t.work.seed for t in trials}) == 1
    assert {t.work.epochs for t in trials} == {4}
    assert not any(t.work.read_test for t in trials)


def test_candidates_are_ranked_by_the_mean_over_the_folds_with_its_error() -> None:
    runner = Folded(top=2)
    done = runner.validated()
    trials = {t.number: t for t in runner.log.trials("cross_validation")}
    assert [trials[r.trial].params["lr"] for r in done.result.ranking] == [0.1, 1.0]
    best = spread([0.2 + f for f in FOLDS])
    assert done.result.ranking[0].value == pytest.approx(best.mean)
    figures = done.result.numbers["candidates"][0]
    assert figures["error"] == pytest.approx(best.sd / 5**0.5)
    assert figures["claimed"] == pytest.approx(0.2)
    assert done.result.why == (
        f"2 configurations over the same 5 folds. Best is lr=0.1: val/loss 0.2 ± {best.error:.2g} (sd/√5)."
    )


def test_folds_of_unlike_difficulty_are_compared_in_pairs() -> None:
    """The folds differ by more than the candidates do, but alike for both: no tie."""
    done = Folded(top=2).validated()
    assert "tie" not in {f.kind for f in done.result.findings}
    runner = Folded(top=2)
    runner.mixed = 0.05
    (tie,) = [f for f in runner.validated().result.findings if f.kind == "tie"]
    assert "tied over 5 folds" in tie.sentence


def test_a_fold_that_diverged_puts_its_candidate_last() -> None:
    runner = Folded()
    done = runner.validated(
        ending=lambda t: (
            ("pruned", "diverged") if t.work.fold == (2, 5) and t.params["lr"] == 0.1 else COMPLETE
        )
    )
    trials = {t.number: t for t in runner.log.trials("cross_validation")}
    assert [trials[r.trial].params["lr"] for r in done.result.ranking] == [1.0, 0.01, 0.1]


def test_the_trial_that_stands_for_a_candidate_is_its_first_complete_fold() -> None:
    runner = Folded(top=1)
    done = runner.validated(ending=lambda t: ("failed", "error") if t.work.fold == (0, 5) else COMPLETE)
    (ranked,) = done.result.ranking
    assert runner.log.trial(ranked.trial).work.fold == (1, 5)
    assert ranked.value == pytest.approx(0.2 + sum(FOLDS[1:]) / 4)


def test_a_fold_that_also_stopped_the_training_is_no_judge() -> None:
    stopping = {"early_stopping": 3}
    found = {f.kind: f for f in Folded(fixed=stopping).validated().result.findings}
    assert found["judged_where_stopped"].level == "info"
    assert "judged_where_stopped" not in {f.kind for f in Folded().validated().result.findings}


def test_nothing_that_ranks_fails_the_stage() -> None:
    runner = Folded()
    done = runner.validated(ending=lambda t: ("failed", "error") if t.work.fold else COMPLETE)
    assert done.result.failed


def test_it_waits_for_its_last_fold_and_refuses_a_pruner() -> None:
    runner = Folded(folds=2, top=1)
    runner.run("coarse_grid")
    runner.activate("cross_validation")
    plan = runner.ask("cross_validation", 9)
    for proposal in plan.items:  # type: ignore[union-attr]
        runner.start(runner.queue("cross_validation", proposal))
    assert runner.ask("cross_validation", 1) == Wait(
        "2 of 2 trainings have not finished: candidate:0/fold:0, candidate:0/fold:1"
    )
    with pytest.raises(ValidationError, match="which a pruner would cut; leave its pruner out"):
        Folded(pruner={"kind": "median"})


def repeated(name: int, values: list[float], seconds: float | None) -> Repeats:
    def trial(i: int, value: float) -> Trial:
        metrics = {"val/loss": value} | ({} if seconds is None else {"sys/epoch_seconds": seconds})
        return Trial(
            i, "s", f"{name}:{i}", i, {"name": name}, Work(1, 0), state=TrialState.COMPLETE, value=value,
            curve=(Point(1, metrics),),
        )  # fmt: skip

    return Repeats({"name": name}, {i: trial(i, v) for i, v in enumerate(values)})


def test_of_what_is_tied_the_clearly_cheaper_is_chosen_and_nothing_else() -> None:
    best = repeated(0, [0.1, 0.2, 0.3], seconds=10)
    tied_cheap = repeated(1, [0.2, 0.1, 0.32], seconds=5)
    tied_alike = repeated(2, [0.2, 0.1, 0.32], seconds=9)
    worse_cheap = repeated(3, [0.2, 0.3, 0.41], seconds=1)
    assert cheapest([best, tied_cheap, worse_cheap]) is tied_cheap
    assert cheapest([best, tied_alike, worse_cheap]) is best
    assert cheapest([best, repeated(4, [0.2, 0.1, 0.32], seconds=None)]) is best
    two = [repeated(6, [0.1, 0.2], seconds=10), repeated(7, [0.4, 0.5], seconds=1)]
    assert cheapest(two) is two[0], "two pairs are no reason to leave the best"
    assert cheapest([repeated(5, [0.1, 0.2, 0.3], seconds=None), tied_cheap]).params["name"] == 5


def test_means_are_ranked_in_the_objectives_direction() -> None:
    low, high = repeated(0, [0.1, 0.2], None), repeated(1, [0.3, 0.4], None)
    assert best_first([high, low], "minimize") == [low, high]
    assert best_first([low, high], "maximize") == [high, low]


def test_a_model_learns_nothing_from_folds_for_they_are_judged_by_other_samples() -> None:
    runner = Folded()
    runner.validated()
    sampler = {"kind": "sampler", "epochs": 4, "trials": 3, "sampler": {"kind": "tpe"}}
    stages = [*runner.spec.to_json()["stages"], sampler]
    spec = StudySpec.model_validate(runner.spec.to_json() | {"stages": stages})
    stage, log = spec.stages[-1], StudyLog(spec.to_json())
    for entry in runner.entries:
        log.apply(entry)
    assert isinstance(stage, Sampler)
    history = log.history(stage.name)
    folds = history.earlier["cross_validation"].trials
    space = stage.open_space(spec)
    assert folds[0].work.epochs == stage.epochs
    assert not any(stage._is_comparable(t, spec, space) for t in folds)
    whole = [replace(t, work=replace(t.work, fold=None)) for t in folds]
    assert all(stage._is_comparable(t, spec, space) for t in whole)
