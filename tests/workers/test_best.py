"""Early stopping that goes back to the best weights."""

import math

import pytest
from torch import nn
from training import blobs, ending, make_work, points, run, same_bits, saved, tree, wish_at
from tunesmith_studies.curves import objective_value
from tunesmith_studies.study import Objective
from tunesmith_studies.trial import Point
from tunesmith_workers.endings import Ending
from tunesmith_workers.snapshots import load

STEPS = 5
# Far too high a rate for long training on 40 samples: the validation loss falls, then rises.
PARAMS = {"optimizer": "adam", "lr": 0.05, "batch_size": 8, "hidden": 32, "early_stopping": 3}


def order(**changes):
    return make_work(**({"params": PARAMS, "epochs": 30, "keep_snapshot": True} | changes))


def without(name, value):
    return PARAMS | {name: value}


def curve(said):
    clocks = {"sys/epoch_seconds", "sys/train_seconds", "sys/samples_per_second"}
    return [(p.step, {k: v for k, v in p.metrics.items() if k not in clocks}) for p in points(said)]


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    """The same training without going back, and the epoch of its best validation loss."""
    said = run(blobs(), order(params=without("restore_best", False)), tmp_path_factory.mktemp("plain"))
    losses = [p.metrics["val/loss"] for p in points(said)]
    assert ending(said) == Ending("complete", "early_stopping")
    assert losses.index(min(losses)) == len(losses) - 1 - 3 > 0
    return said, losses.index(min(losses)) + 1


def test_the_last_snapshot_has_the_weights_of_the_best_epoch(tmp_path, plain):
    _, best = plain
    until_best = run(blobs(), order(epochs=best), tmp_path)
    said = run(blobs(), order(), tmp_path)
    assert ending(said) == Ending("complete", "early_stopping")
    assert same_bits(tree(said)["model"], tree(until_best)["model"])
    assert tree(said)["best"] is None


def test_the_last_point_judges_the_model_that_is_kept(tmp_path, plain):
    said, best = run(blobs(), order(), tmp_path), plain[1]
    assert curve(said)[:-1] == curve(plain[0])[:-1]
    last, best_point = points(said)[-1].metrics, points(said)[best - 1].metrics
    assert last["val/loss"] == best_point["val/loss"]
    assert last["val/accuracy"] == best_point["val/accuracy"]
    assert last["sys/restored_step"] == best
    assert last["train/loss"] == points(plain[0])[-1].metrics["train/loss"]
    objective = Objective(metric="val/loss", direction="minimize", reduce="last")
    seen = [Point(p.step, p.metrics) for p in points(said)]
    assert objective_value(seen, objective) == min(p.metrics["val/loss"] for p in points(said))


def test_the_log_says_whose_weights_were_put_back(tmp_path, plain, capsys):
    run(blobs(), order(), tmp_path)
    assert capsys.readouterr().out.splitlines()[-1].endswith(f"in epoch {plain[1]}, whose weights are kept")


@pytest.mark.parametrize("when", ["before the best", "after the best"])
def test_a_trial_interrupted_on_the_way_goes_back_to_the_same_weights(tmp_path, plain, when):
    at = plain[1] * STEPS + (7 if when == "after the best" else -3)
    whole = run(blobs(), order(), tmp_path)
    first = run(blobs(), order(), tmp_path, asked=wish_at(at))
    kept = load(saved(first)[-1].file.path)["best"]
    assert (kept["step"] == plain[1]) is (when == "after the best")
    second = run(blobs(), order(), tmp_path, resume=saved(first)[-1].file.path)
    assert curve(first) + curve(second) == curve(whole)
    assert same_bits(tree(second), tree(whole))


def test_a_trial_whose_last_snapshot_says_it_is_done_keeps_the_best_weights(tmp_path, plain):
    done = run(blobs(), order(), tmp_path)
    again = run(blobs(), order(), tmp_path, resume=saved(done)[-1].file.path)
    assert (points(again), ending(again)) == ([], Ending("complete", "early_stopping"))
    assert same_bits(tree(again), tree(done))


def test_a_spent_budget_keeps_the_newest_weights_so_that_another_may_go_on(tmp_path, plain):
    epochs = plain[1] + 2
    said = run(blobs(), order(epochs=epochs), tmp_path)
    assert ending(said) == Ending("complete", "budget")
    assert curve(said) == curve(plain[0])[:epochs]
    other = run(blobs(), order(epochs=epochs, params=without("early_stopping", 0)), tmp_path)
    assert same_bits(tree(said)["model"], tree(other)["model"])


def test_a_branch_does_not_go_back_behind_its_start(tmp_path, plain):
    start = run(blobs(), order(epochs=plain[1] + 2), tmp_path)
    branch = order(number=1, params=without("lr", 1e-9))
    said = run(blobs(), branch, tmp_path, resume=saved(start)[-1].file.path)
    assert points(said)[-1].metrics["sys/restored_step"] > plain[1] + 2


def test_an_accuracy_s_best_is_its_highest(tmp_path):
    said = run(blobs(), order(metric="val/accuracy", direction="maximize"), tmp_path)
    values = [p.metrics["val/accuracy"] for p in points(said)]
    assert values[-1] == max(values)
    assert points(said)[-1].metrics["sys/restored_step"] == values.index(max(values)) + 1


def test_tied_weights_and_running_statistics_go_back_too(tmp_path):
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm = nn.BatchNorm1d(4)
            self.one, self.two, self.out = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 3)
            self.two.weight = self.one.weight

        def forward(self, x):
            return self.out(self.two(self.one(self.norm(x)).tanh()))

    params = {k: v for k, v in PARAMS.items() if k != "hidden"}
    entry = blobs(build=lambda p: Tied())
    said = run(entry, order(params=params, epochs=99), tmp_path)
    best = int(points(said)[-1].metrics["sys/restored_step"])
    until_best = run(entry, order(params=params, epochs=best), tmp_path)
    assert same_bits(tree(said)["model"], tree(until_best)["model"])


def test_a_trial_without_early_stopping_keeps_no_copy(tmp_path):
    said = run(blobs(), order(params=without("early_stopping", 0), epochs=2), tmp_path, asked=wish_at(7))
    assert tree(said)["best"] is None


def test_restore_best_is_true_or_false(tmp_path):
    with pytest.raises(ValueError, match="restore_best must be true or false, got 'yes'"):
        run(blobs(), order(params=without("restore_best", "yes")), tmp_path)


def test_a_diverged_trial_restores_nothing(tmp_path):
    said = run(blobs(), order(params=without("lr", 1e20)), tmp_path)
    assert ending(said) == Ending("pruned", "diverged")
    assert "sys/restored_step" not in points(said)[-1].metrics
    assert not math.isfinite(points(said)[-1].metrics["train/loss"])
