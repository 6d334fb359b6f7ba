"""The range test's worker: a rate that rises by one factor a step, and the loss on the way."""

from __future__ import annotations

import math
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from contracts import Runner
from training import CPU, blobs, ending, make_work, points, run, wish_at
from tunesmith_studies.planning import Done, Proposals
from tunesmith_studies.rates import suggestions
from tunesmith_studies.study import StudySpec
from tunesmith_workers import range_test
from tunesmith_workers.endings import ABANDONED, BUDGET, RELEASED, Asked, Said
from tunesmith_workers.kinds import Place
from tunesmith_workers.tasks import builtin
from tunesmith_workers.tasks.registry import Entry, TaskError

FAST = {"batch_size": 8, "optimizer": "momentum", "hidden": 8, "depth": 1}


def sweep(
    entry: Entry | None = None,
    *,
    params: dict[str, Any] | None = None,
    asked: Asked = lambda: None,
    seed: int = 7,
    epochs: int = 1,
    **options: Any,
) -> list[Said]:
    work = make_work(
        kind="range_test", params=FAST | (params or {}), epochs=epochs, seed=seed, options=options
    )
    return list(range_test.sweep(entry or blobs(), work, Place(CPU, Path(), asked=asked)))


def column(said: list[Said], name: str) -> list[float]:
    return [p.metrics[name] for p in points(said)]


def test_the_rate_rises_by_one_factor_a_step_from_the_lowest_to_the_highest() -> None:
    said = sweep(lr_low=1e-4, lr_high=1e-2, steps=40)
    rates = column(said, "sys/lr")
    assert [p.step for p in points(said)] == list(range(1, 41))
    assert rates[0] == pytest.approx(1e-4)
    assert rates[-1] == pytest.approx(1e-2)
    factors = [b / a for a, b in pairwise(rates)]
    assert factors == pytest.approx([factors[0]] * 39)
    assert ending(said) == BUDGET


def test_a_sweep_has_the_steps_of_its_epochs_where_they_are_more() -> None:
    said = sweep(lr_high=1e-3, steps=2, epochs=3)  # 40 samples in batches of 8
    assert points(said)[-1].step == 15
    assert column(said, "sys/epoch") == pytest.approx([i / 5 for i in range(1, 16)])


def test_an_epoch_of_a_sweep_at_one_rate_is_an_epoch_of_training(tmp_path: Path) -> None:
    said = sweep(params={"dropout": 0.2}, lr_low=0.05, lr_high=0.05 * (1 + 1e-9), steps=5)
    work = make_work(params=FAST | {"dropout": 0.2, "lr": 0.05}, epochs=1)
    trained = points(run(blobs(), work, tmp_path))[0].metrics["train/loss"]
    assert sum(column(said, "train/loss")) / 5 == pytest.approx(trained, rel=1e-6)


def test_the_same_seed_gives_the_same_losses_to_the_bit_and_another_others() -> None:
    one, again, other = (column(sweep(steps=30, seed=s), "train/loss") for s in (1, 1, 2))
    assert one == again
    assert one[0] != other[0]


def test_long_sweeps_report_means_of_groups_of_steps() -> None:
    every = sweep(lr_high=1e-2, steps=20, points=20)
    groups = sweep(lr_high=1e-2, steps=20, points=7)  # 3 steps each, 2 in the last
    assert [p.step for p in points(groups)] == [3, 6, 9, 12, 15, 18, 20]
    losses, rates = column(every, "train/loss"), column(every, "sys/lr")
    assert column(groups, "train/loss") == pytest.approx(
        [sum(losses[i : i + 3]) / len(losses[i : i + 3]) for i in range(0, 20, 3)]
    )
    assert column(groups, "sys/lr")[0] == pytest.approx(rates[1])
    assert column(groups, "sys/lr")[-1] == pytest.approx(math.sqrt(rates[18] * rates[19]))


def test_a_sweep_ends_where_the_loss_breaks_away_and_is_complete() -> None:
    said = sweep(lr_low=1e-3, lr_high=1e6, steps=200)
    losses = column(said, "train/loss")
    assert 20 < len(losses) < 200
    assert not math.isfinite(losses[-1]) or losses[-1] > 4 * min(losses)
    assert ending(said) == BUDGET


def test_a_loss_that_is_not_finite_is_the_last_point() -> None:
    def broken(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        return outputs.sum(1) * (math.nan if outputs.abs().sum() > 1e3 else 0.0) + outputs.pow(2).sum(1)

    losses = column(sweep(blobs(loss=broken), lr_high=1e6, steps=100, stop_factor=1e30), "train/loss")
    assert not math.isfinite(losses[-1])
    assert all(math.isfinite(v) for v in losses[:-1])


def test_one_lucky_batch_at_the_start_ends_no_sweep() -> None:
    """Of an average over one loss nothing follows: batches of 1 differ by more than the stop factor."""
    said = sweep(params={"batch_size": 1}, lr_low=1e-6, lr_high=1e-4, steps=200, stop_factor=1.5)
    assert len(points(said)) == 200


@pytest.mark.parametrize(("wish", "end"), [("hand_back", RELEASED), ("abandon", ABANDONED)])
def test_a_sweep_that_is_wanted_back_leaves_nothing_and_begins_again(wish: Any, end: Any) -> None:
    assert sweep(asked=wish_at(7, wish), steps=30) == [end]
    assert points(sweep(steps=30)) == points(sweep(steps=30))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"lr_low": 1.0, "lr_high": 0.1}, "lr_low < lr_high"),
        ({"lr_low": 0}, "lr_low is a number above 0, got 0"),
        ({"steps": 1}, "2 or more steps"),
        ({"smoothing": "much"}, "smoothing is a number above 0"),
    ],
)
def test_options_that_make_no_sweep_are_refused(options: dict[str, Any], said: str) -> None:
    with pytest.raises(TaskError, match=said):
        sweep(**options)


def test_the_stage_s_rule_reads_what_a_worker_says_of_digits() -> None:
    """Plan, sweeps and suggestion as in a study; what the suggested rates are worth is a benchmark's matter:
    20 epochs of digits at momentum 0.9 and batches of 32 are best between 0.04 and 0.1."""
    spec = StudySpec.model_validate(
        {
            "name": "s", "task": "digits", "space": {"lr": {"low": 1e-4, "high": 1.0, "log": True}},
            "fixed": {"optimizer": "momentum"}, "stages": [{"kind": "lr_range_test", "steps": 150}],
        }
    )  # fmt: skip
    entry, runner = builtin.registry()["digits"], Runner(spec)
    runner.activate("lr_range_test")
    plan = runner.ask("lr_range_test", 9)
    assert isinstance(plan, Proposals)
    for proposal in plan.items:
        number = runner.queue("lr_range_test", proposal)
        runner.start(number)
        work = make_work(params=dict(proposal.params), **proposal.work.to_json())
        said = list(range_test.sweep(entry, work, Place(CPU, Path())))
        told = [{"step": p.step, "metrics": dict(p.metrics)} for p in points(said)]
        runner.put("reported", trial=number, attempt=1, seq=1, points=told)
        ended = {"from": "running", "to": "complete", "stop_reason": "budget", "value": None}
        runner.put("moved", trial=number, attempt=1, **ended)
    done = runner.ask("lr_range_test", 1)
    assert isinstance(done, Done)
    (found,) = suggestions(done.result)
    assert 0.03 < found.lr < 0.12
    assert found.spread < 2
    assert found.lr < found.max < 0.5
    epochs = done.result.numbers["epochs"]
    assert epochs == pytest.approx(sum(t.curve[-1].step for t in runner.log.trials("lr_range_test")) / 34)
