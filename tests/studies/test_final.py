"""The final stage: fresh seeds beside claims, the gate for 1cycle, an honest interval, the test set."""

from __future__ import annotations

import random
import statistics
from collections.abc import Mapping
from typing import Any

import pytest
from contracts import COMPLETE, Ending, Runner
from pydantic import ValidationError
from tunesmith_studies.planning import Done, Proposal, Proposals, Seed, Wait
from tunesmith_studies.space import Params
from tunesmith_studies.stages.final import Final, one_cycle_params
from tunesmith_studies.statistics import interval
from tunesmith_studies.study import StudySpec
from tunesmith_studies.trial import Trial, TrialState

SPACE: dict[str, Any] = {
    "lr": {"low": 1e-3, "high": 1.0, "log": True},
    "weight_decay": {"low": 1e-5, "high": 3e-2, "log": True},
}
COARSE = {"kind": "coarse_grid", "epochs": 2, "axes": {"lr": [0.01, 0.1, 1.0], "weight_decay": [1e-4]}}
RESTARTS = {"kind": "weight_decay_restarts", "epochs": 20, "values": [1e-4, 1e-3, 1e-2]}


class Trainings(Runner):
    """Runs whose value depends on the configuration and, a little, on the seed.

    `levels` gives the value of a rate, `noise` its deviation over seeds; `evaluation` is what the
    evaluating trial reports, `reads` how often the task's test split has then been read.
    """

    def __init__(self, stages: list[dict[str, Any]], **changes: Any) -> None:
        data = {
            "name": "s", "task": "digits", "space": SPACE, "stages": stages,
            "fixed": {"optimizer": "momentum", "momentum": 0.9},
        }  # fmt: skip
        super().__init__(StudySpec.model_validate(data | changes))
        self.levels: dict[float, float] = {0.01: 0.4, 0.1: 0.2, 1.0: 0.21}
        self.cycle = 0.2
        self.noise = 0.01
        self.evaluation: dict[str, float] = {}
        self.reads = 1

    def value(self, trial: Trial) -> float:
        rng = random.Random(f"{trial.work.seed} {trial.params['lr']}")
        if trial.params.get("schedule") == "one_cycle":
            return self.cycle + self.noise * rng.gauss(0, 0.1)
        level = self.levels[float(trial.params["lr"])]
        return level + (0 if trial.stage != "final" else self.noise * rng.gauss(0, 1))

    def end(self, number: int, ending: Ending = COMPLETE, *, epochs: int | None = None) -> None:
        trial = self.log.trial(number)
        if trial.work.kind == "evaluate" and ending == COMPLETE:
            metrics = {"sys/epoch": 0.0, **self.evaluation}
            points = [{"step": 1, "metrics": metrics}]
            self.put("reported", trial=number, attempt=1, seq=1, points=points)
            if trial.work.read_test:
                self.put("test_read", trial=number, nth=self.reads)
            self.put("moved", trial=number, to="complete", attempt=1, stop_reason="budget", value=None)
            return
        self.objective = lambda params, epoch: self.value(trial)
        super().end(number, ending, epochs=epochs)

    def final(self, **run: Any) -> Done:
        for stage in self.spec.stages[:-1]:
            self.run(stage.name)
        return self.run("final", **run)

    def seeds(self, prefix: str) -> dict[str, int]:
        return {t.key: t.work.seed for t in self.log.trials("final") if t.key.startswith(prefix)}


def final(**changes: Any) -> dict[str, Any]:
    return {"kind": "final", "epochs": 8, **changes}


def is_seed(trial: Trial, what: str, seed: int) -> bool:
    return trial.key.startswith(f"{what}:") and trial.key.endswith(f"/seed:{seed}")


def findings(done: Done) -> Mapping[str, Any]:
    return {f.kind: f for f in done.result.findings}


# --- who is trained again, and with which seeds -------------------------------------------------------


def test_all_candidates_have_the_same_fresh_seeds_and_the_honest_ones_are_new() -> None:
    runner = Trainings([COARSE, final()])
    runner.final()
    by_candidate = [runner.seeds(f"candidate:{i}/") for i in range(3)]
    assert all(len(set(seeds.values())) == 3 for seeds in by_candidate)
    assert len({tuple(seeds.values()) for seeds in by_candidate}) == 1
    chosen_by = set(by_candidate[0].values())
    assert set(runner.seeds("one_cycle:").values()) == chosen_by
    honest = set(runner.seeds("honest:").values())
    searched = {t.work.seed for t in runner.log.trials("coarse_grid")}
    assert len(honest) == 5
    assert not honest & (chosen_by | searched)
    assert not chosen_by & searched


def test_a_seed_tried_again_that_makes_another_the_winner_gives_it_trainings_of_its_own() -> None:
    failing = "candidate:1/seed:0"
    runner = Trainings([COARSE, final()])
    runner.levels[1.0] = 0.25  # the loser, whose third seed fails at first, so that it counts for less
    runner.final(ending=lambda t: ("failed", "error") if t.key == failing else COMPLETE)
    before = {t.key for t in runner.log.trials("final")}
    failed = next(t for t in runner.log.trials("final") if t.key == failing)
    again = Proposal(f"{failing}/retry:1", failed.ordinal, failed.params, failed.work)
    runner.levels[1.0] = -10.0
    number = runner.queue("final", again)
    assert isinstance(runner.ask("final", 4), Wait)
    runner.start(number)
    runner.end(number)
    plan = runner.ask("final", 4)
    assert isinstance(plan, Proposals)
    assert {p.key for p in plan.items} == {f"one_cycle:1/seed:{j}" for j in range(3)}
    assert not {p.key for p in plan.items} & before


def test_everything_is_trained_from_scratch_at_full_length() -> None:
    runner = Trainings([COARSE, final(one_cycle_epochs=5)])
    runner.final()
    for trial in runner.log.trials("final"):
        assert trial.start is None
        if trial.work.kind == "train":
            assert trial.work.epochs == (5 if trial.key.startswith("one_cycle:") else 8)


def test_configurations_that_the_final_stage_holds_alike_are_one() -> None:
    coarse = COARSE | {"axes": {"lr": [0.1], "weight_decay": [1e-4, 1e-3]}}
    runner = Trainings([coarse, final(fixed={"weight_decay": 1e-4})])
    runner.final()
    assert len(runner.seeds("candidate:")) == 3


def test_after_restarts_the_pick_comes_first_and_then_the_best_of_the_search() -> None:
    runner = Trainings([COARSE, RESTARTS, final()])
    done = runner.final()
    searched, restarts = runner.log.history("final").earlier.values()
    figures = done.result.numbers["candidates"]
    assert figures[0]["params"] == restarts.result.chosen["params"]
    best = [t.params["lr"] for t in searched.best(2)]
    others = [f["params"] for f in figures[1:]]
    decay = restarts.result.chosen["weight_decay"]
    assert [p["lr"] for p in others] == (best if decay != 1e-4 else [best[1], 0.01])
    assert len({f["claimed_by"] for f in figures}) == 3


def test_without_an_earlier_stage_what_is_held_is_trained_and_nothing_was_claimed() -> None:
    runner = Trainings([final(fixed={"lr": 0.1, "weight_decay": 0.0})])
    done = runner.final()
    assert done.result.chosen["params"]["lr"] == 0.1
    assert done.result.numbers["claimed"] is None
    assert "The search said" not in done.result.why
    with pytest.raises(ValidationError, match="it has no earlier stage to take lr from; hold lr under fixed"):
        Trainings([final()])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"pruner": {"kind": "median"}}, "compares means of whole trainings, which a pruner would cut"),
        ({"one_cycle_epochs": 9}, "one_cycle_epochs must be at most epochs 8, got 9"),
        ({"seeds": 2}, "greater than or equal to 3"),
    ],
)
def test_what_makes_no_final_stage_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        Trainings([COARSE, final(**changes)])


# --- ranking and gate -----------------------------------------------------------------------------------


def test_finalists_are_ranked_by_the_mean_of_their_seeds() -> None:
    runner = Trainings([COARSE, final()])
    runner.levels = {0.01: 0.4, 0.1: 0.2, 1.0: 0.1}
    done = runner.final()
    trials = {t.number: t for t in runner.log.trials("final")}
    order = [trials[r.trial].params["lr"] for r in done.result.ranking]
    assert order == [1.0, 0.1, 0.01]
    means = [
        statistics.fmean(t.value or 0 for t in trials.values() if t.key.startswith(f"candidate:{i}/"))
        for i in range(3)
    ]
    assert [r.value for r in done.result.ranking] == pytest.approx(sorted(means))
    assert "Best of 3 by the mean of 3 fresh seeds is lr=1," in done.result.why


def test_a_seed_that_diverged_counts_against_its_configuration() -> None:
    runner = Trainings([COARSE, final(one_cycle=False)])
    runner.levels = {0.01: 0.4, 0.1: 0.3, 1.0: 0.1}

    def ending(trial: Trial) -> Ending:
        unlucky = trial.params["lr"] == 1.0 and trial.key.endswith("/seed:1")
        return ("pruned", "diverged") if unlucky else COMPLETE

    done = runner.final(ending=ending)
    assert done.result.chosen["params"]["lr"] == 0.1
    figures = {f["params"]["lr"]: f for f in done.result.numbers["candidates"]}
    assert figures[1.0]["diverged"] == 1
    assert done.result.ranking[-1].value == pytest.approx(figures[1.0]["mean"])


def test_maximised_objectives_are_ranked_and_gated_the_other_way() -> None:
    runner = Trainings([COARSE, final()], objective={"metric": "val/loss", "direction": "maximize"})
    runner.levels = {0.01: 0.4, 0.1: 0.2, 1.0: 0.1}
    runner.cycle = 0.2
    done = runner.final()
    assert done.result.chosen["params"]["lr"] == 0.01
    assert done.result.numbers["one_cycle"]["kept"] is False


def test_one_cycle_is_kept_where_it_is_better_by_more_than_a_standard_deviation() -> None:
    runner = Trainings([COARSE, final(one_cycle_epochs=6)])
    runner.cycle = 0.1
    done = runner.final()
    params = done.result.chosen["params"]
    assert params["schedule"] == "one_cycle"
    assert done.result.chosen["epochs"] == 6
    assert params["lr"] == pytest.approx(0.1 * (1 - 0.85) / (1 - 0.9))
    assert "so 1cycle stays" in done.result.why
    honest = [t for t in runner.log.trials("final") if t.key.startswith("honest:")]
    assert all(t.params == params and t.work.epochs == 6 for t in honest)
    assert done.result.ranking[0].value == pytest.approx(done.result.numbers["one_cycle"]["mean"])


def test_one_cycle_that_is_better_by_less_leaves_the_constant_run_and_both_stand_in_the_result() -> None:
    runner = Trainings([COARSE, final()])
    runner.levels[1.0] = 0.4
    runner.cycle, runner.noise = 0.199, 0.02
    done = runner.final()
    assert "schedule" not in done.result.chosen["params"]
    figures = done.result.numbers
    assert figures["one_cycle"]["kept"] is False
    assert figures["one_cycle"]["mean"] == pytest.approx(0.199, abs=0.01)
    assert "not better by more than one standard deviation, so the run without it stays" in done.result.why


def test_one_cycle_with_a_diverged_seed_is_not_kept() -> None:
    runner = Trainings([COARSE, final()])
    runner.cycle = 0.01
    done = runner.final(ending=lambda t: ("pruned", "diverged") if is_seed(t, "one_cycle", 0) else COMPLETE)
    assert done.result.numbers["one_cycle"]["kept"] is False
    assert "none diverges, so the run without it stays" in done.result.why
    assert "better by more than" not in done.result.why


def test_one_cycle_that_does_not_diverge_where_the_constant_run_does_is_kept_and_told_so() -> None:
    runner = Trainings([COARSE, final(top=1)])
    runner.cycle = 5.0
    fresh = "candidate:0/seed:0"
    done = runner.final(ending=lambda t: ("pruned", "diverged") if t.key == fresh else COMPLETE)
    assert done.result.numbers["one_cycle"]["kept"] is True
    assert "and did not diverge, as the run without it did, so 1cycle stays" in done.result.why


@pytest.mark.parametrize(
    ("params", "peak"),
    [
        ({"optimizer": "momentum", "momentum": 0.9, "lr": 0.1}, 0.15),
        ({"optimizer": "momentum", "lr": 0.1}, 0.15),
        ({"optimizer": "nesterov", "momentum": 0.95, "lr": 0.1}, 0.3),
        ({"optimizer": "momentum", "momentum": 0.9, "lr": 0.1, "momentum_low": 0.8}, 0.2),
        ({"optimizer": "momentum", "momentum": 0.5, "lr": 0.1}, 0.03),
        ({"optimizer": "sgd", "lr": 0.1}, 0.1),
        ({"lr": 0.1}, 0.1),
        ({"optimizer": "adam", "lr": 0.001}, 0.001),
    ],
)
def test_the_peak_keeps_lr_over_one_minus_momentum(params: Params, peak: float) -> None:
    found = one_cycle_params(params, 1.0, 0.15)
    assert found is not None
    assert found["lr"] == pytest.approx(peak)
    assert one_cycle_params(params, 2.0, 0.15) == found | {"lr": pytest.approx(2 * peak)}
    assert (found["schedule"], found["annihilation"]) == ("one_cycle", 0.15)


def test_one_cycle_runs_to_its_end_and_is_not_tried_where_there_is_nothing_to_compare() -> None:
    stopped = one_cycle_params({"lr": 0.1, "early_stopping": 5}, 1.0, 0.1)
    assert stopped is not None
    assert stopped["early_stopping"] == 0
    assert one_cycle_params({"lr": 0.1, "schedule": "one_cycle"}, 1.0, 0.1) is None
    assert one_cycle_params({"depth": 3}, 1.0, 0.1) is None
    runner = Trainings([COARSE, final(one_cycle=False)])
    assert "1cycle was not tried" in runner.final().result.why
    assert not runner.seeds("one_cycle:")


def test_what_the_comparisons_say_can_be_asked_before_the_stage_ends() -> None:
    runner = Trainings([COARSE, final(top=1)])
    runner.run("coarse_grid")
    runner.activate("final")
    stage = runner.log.stage("final")
    assert isinstance(stage, Final)
    assert stage.choice(runner.log.history("final"), Seed(0)) is None
    plan = runner.ask("final", 9)
    assert isinstance(plan, Proposals)
    for proposal in plan.items:
        number = runner.queue("final", proposal)
        runner.start(number)
        runner.end(number)
    choice = stage.choice(runner.log.history("final"), Seed(0))
    assert choice is not None
    assert len(choice.winner.values) == 3
    assert not choice.keeps_cycle


# --- the honest number ----------------------------------------------------------------------------------


def test_claim_and_honest_number_stand_side_by_side_with_the_interval_of_seeds_that_chose_nothing() -> None:
    runner = Trainings([COARSE, final(one_cycle=False)])
    runner.levels = {0.01: 0.4, 0.1: 0.2, 1.0: 0.4}
    done = runner.final()
    honest = [t.value or 0.0 for t in runner.log.trials("final") if t.key.startswith("honest:")]
    low, high = interval(honest, ahead=10)
    figures = done.result.numbers
    assert figures["honest"]["interval"] == pytest.approx([low, high])
    assert figures["honest"]["mean"] == pytest.approx(statistics.fmean(honest))
    assert figures["claimed"] == 0.2
    assert (
        f"The search said val/loss 0.2 (coarse_grid, 2 epochs); 5 fresh seeds that chose nothing say "
        f"{statistics.fmean(honest):.4g}, 95 % interval {low:.4g} to {high:.4g} for the mean of 10 more."
    ) in done.result.why


def test_a_claim_far_below_the_honest_interval_is_called_optimistic() -> None:
    runner = Trainings([COARSE, final(one_cycle=False, top=1)])
    runner.run("coarse_grid")
    runner.levels[0.1] = 0.3
    found = findings(runner.run("final"))["optimistic_claim"]
    assert found.numbers["claimed"] == 0.2
    assert "The search claimed val/loss 0.2 by trial 1; 5 fresh seeds give 0." in found.sentence


def test_a_claim_is_judged_by_seeds_without_one_cycle_even_where_that_is_kept() -> None:
    runner = Trainings([COARSE, final(top=1)])
    runner.cycle = 0.1
    done = runner.final()
    assert "optimistic_claim" not in findings(done)
    assert "5 fresh seeds with 1cycle that chose nothing say 0.099" in done.result.why
    runner = Trainings([COARSE, final(top=1)])
    runner.run("coarse_grid")
    runner.cycle, runner.levels[0.1] = 0.1, 0.3
    assert "3 fresh seeds give 0." in findings(runner.run("final"))["optimistic_claim"].sentence


def test_further_seeds_that_diverge_are_told() -> None:
    runner = Trainings([COARSE, final()])
    done = runner.final(ending=lambda t: ("pruned", "diverged") if is_seed(t, "honest", 2) else COMPLETE)
    assert "1 of 5 further seeds of the winner diverged" in findings(done)["winner_diverged"].sentence
    assert "4 fresh seeds that chose nothing (1 more diverged) say" in done.result.why


def test_without_any_honest_value_the_stage_ends_and_says_so() -> None:
    runner = Trainings([COARSE, final()])
    done = runner.final(ending=lambda t: ("failed", "error") if t.key.startswith("honest:") else COMPLETE)
    assert not done.result.failed
    assert "No further seed of it ended with a value, so there is no honest number." in done.result.why
    assert "left a snapshot" in findings(done)["no_evaluation"].sentence


def test_finalists_within_seed_noise_are_a_tie_and_those_beyond_it_are_none() -> None:
    runner = Trainings([COARSE, final(one_cycle=False, top=2)])
    runner.levels = {0.01: 0.4, 0.1: 0.2, 1.0: 0.2001}
    assert "and 1 more" in findings(runner.final())["tie"].sentence
    runner = Trainings([COARSE, final(one_cycle=False, top=2)])
    runner.levels = {0.01: 0.4, 0.1: 0.2, 1.0: 0.3}
    assert "tie" not in findings(runner.final())


# --- evaluation and test set ----------------------------------------------------------------------------

AGREEING = {
    "ensemble/val/loss": 0.18, "ensemble/val/loss_error": 0.01, "test/ensemble/loss": 0.19,
    "test/ensemble/loss_error": 0.01, "test/ensemble/accuracy": 0.95, "test/member/0/loss": 0.2,
}  # fmt: skip


def evaluated(evaluation: dict[str, float], reads: int = 1, **stage: Any) -> tuple[Trainings, Done]:
    runner = Trainings([COARSE, final(one_cycle=False, **stage)])
    runner.evaluation, runner.reads = evaluation, reads
    return runner, runner.final()


def test_the_winners_further_models_are_evaluated_together_and_the_test_set_is_read_once() -> None:
    runner, done = evaluated(AGREEING)
    trials = runner.log.trials("final")
    (evaluation,) = [t for t in trials if t.work.kind == "evaluate"]
    honest = {t.number for t in trials if t.key.startswith("honest:")}
    assert {m.trial for m in evaluation.work.members} == honest
    assert [t.number for t in trials if t.work.read_test] == [evaluation.number]
    assert evaluation.work.inspect
    assert done.result.numbers["ensemble"] == {"loss": 0.18}
    assert done.result.numbers["test"]["ensemble"] == {"loss": 0.19, "accuracy": 0.95}
    assert done.result.numbers["test"]["read"] == 1
    assert "The averaged predictions of 5 models give 0.18." in done.result.why
    assert "On the test set, read once, they give loss 0.19, accuracy 0.95." in done.result.why
    assert not {"overfit_validation", "test_read_again", "no_evaluation"} & findings(done).keys()


def test_a_snapshot_from_before_a_trainings_end_is_no_member() -> None:
    runner = Trainings([COARSE, final(one_cycle=False)])
    keeps = runner.put

    def put(kind: str, **entry: Any) -> None:
        """The first honest training's last snapshot is the one of a hand-over, at epoch 3."""
        early = kind == "snapshot" and is_seed(runner.log.trial(entry["trial"]), "honest", 0)
        keeps(kind, **(entry | {"step": 3} if early else entry))

    runner.put = put  # type: ignore[method-assign]
    runner.final()
    (evaluation,) = [t for t in runner.log.trials("final") if t.work.kind == "evaluate"]
    keys = {runner.log.trial(m.trial).key for m in evaluation.work.members}
    assert {key.rpartition("/")[2] for key in keys} == {f"seed:{j}" for j in range(1, 5)}


def test_a_final_stage_may_leave_the_test_set_alone() -> None:
    runner, done = evaluated({"ensemble/val/loss": 0.18}, test=False)
    assert not any(t.work.read_test for t in runner.log.trials("final"))
    assert "test set" not in done.result.why
    assert done.result.numbers["test"] == {}


def test_a_second_read_of_the_test_set_is_told() -> None:
    _, done = evaluated(AGREEING, reads=3)
    found = findings(done)["test_read_again"]
    assert "The test set was read before: this is read 3." in found.sentence
    assert "read again" in done.result.why


def test_a_test_loss_far_above_the_validation_loss_is_told() -> None:
    _, done = evaluated(AGREEING | {"test/ensemble/loss": 0.3})
    found = findings(done)["overfit_validation"]
    assert "The test loss 0.3 is 0.12 above the validation loss 0.18" in found.sentence
    noisy = AGREEING | {"test/ensemble/loss": 0.3, "test/ensemble/loss_error": 0.1}
    assert "overfit_validation" not in findings(evaluated(noisy)[1])


def test_a_snapshot_that_does_not_say_again_what_its_trial_logged_is_told() -> None:
    runner, done = evaluated({})
    first = next(t for t in runner.log.trials("final") if is_seed(t, "honest", 0))
    assert first.value is not None
    for again, disagrees in ((first.value * 1.0005, False), (first.value * 1.01, True)):
        _, done = evaluated({"member/0/val/loss": again})
        assert ("evaluation_disagrees" in findings(done)) is disagrees


def test_an_evaluation_that_fails_leaves_the_stage_what_it_has() -> None:
    runner = Trainings([COARSE, final()])
    done = runner.final(ending=lambda t: ("failed", "error") if t.work.kind == "evaluate" else COMPLETE)
    assert not done.result.failed
    assert done.result.numbers["honest"]["mean"] == pytest.approx(0.2, abs=0.05)
    assert "ended failed, so the models were not averaged" in findings(done)["no_evaluation"].sentence
    assert "averaged" not in done.result.why


def test_a_task_without_a_test_split_is_said_to_have_none() -> None:
    _, done = evaluated({"ensemble/val/loss": 0.18})
    assert "The task has no test split." in done.result.why


def test_numbers_that_are_not_finite_stay_out_of_the_result() -> None:
    _, done = evaluated(AGREEING | {"ensemble/val/loss": float("nan"), "member/0/val/loss": float("inf")})
    assert done.result.numbers["ensemble"] == {}
    assert "overfit_validation" not in findings(done)


def test_nothing_that_ranks_fails_the_stage() -> None:
    runner = Trainings([COARSE, final()])
    done = runner.final(ending=lambda t: ("pruned", "diverged") if t.stage == "final" else COMPLETE)
    assert done.result.failed
    assert not any(t.key.startswith("one_cycle:") for t in runner.log.trials("final"))


def test_a_trial_by_hand_comes_after_the_means() -> None:
    runner = Trainings([COARSE, final()])
    runner.run("coarse_grid")
    runner.activate("final")
    number = runner.enqueue("final", {"lr": 0.1, "weight_decay": 0.0})
    runner.start(number)
    runner.end(number)
    assert runner.log.trial(number).state is TrialState.COMPLETE
    assert runner.run("final").result.ranking[-1].trial == number
