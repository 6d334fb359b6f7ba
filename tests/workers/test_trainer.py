"""The trainer on a small task; equality is to the bit unless a test says otherwise."""

import math

import pytest
import torch
from torch import nn
from training import CPU, Ticking, blobs, ending, make_work, points, run, same_bits, saved, tree, wish_at
from tunesmith_studies.diagnosis import decomposed
from tunesmith_studies.study import Objective
from tunesmith_workers import trainer
from tunesmith_workers.data import Split, Splits
from tunesmith_workers.endings import Curve, Ending
from tunesmith_workers.snapshots import SnapshotCorrupt, load, save
from tunesmith_workers.tasks.registry import TaskError

STEPS = 5  # optimizer steps an epoch: 40 samples in batches of 8
SGD = {
    "optimizer": "momentum",
    "lr": 0.1,
    "weight_decay": 1e-3,
    "batch_size": 8,
    "schedule": "step",
    "step_size": 2,
}
ADAMW = {
    "optimizer": "adamw", "lr": 0.01, "weight_decay": 1e-2, "batch_size": 8, "schedule": "one_cycle",
    "clip_norm": 1.0, "label_smoothing": 0.1,
}  # fmt: skip
NET = {"hidden": 16, "depth": 2, "dropout": 0.3}


def curve(said):
    """The points without what a clock says."""
    clocks = {"sys/epoch_seconds", "sys/train_seconds", "sys/samples_per_second"}
    return [(p.step, {k: v for k, v in p.metrics.items() if k not in clocks}) for p in points(said)]


# --- going on -------------------------------------------------------------------------------------


SPARING = ADAMW | {"decay_spares": "biases_and_norms", "schedule": "cosine"}


@pytest.mark.parametrize("recipe", [SGD, ADAMW, SPARING], ids=["momentum", "adamw", "sparing"])
@pytest.mark.parametrize("at", [0, 1, 4, STEPS, STEPS + 3, 3 * STEPS + 1], ids=lambda n: f"step{n}")
def test_a_trial_handed_back_at_any_step_goes_on_as_if_never_interrupted(tmp_path, recipe, at):
    work = make_work(params=recipe | NET, epochs=4, keep_snapshot=True)
    whole = run(blobs(), work, tmp_path)
    first = run(blobs(), work, tmp_path, asked=wish_at(at))
    assert ending(first) == Ending("released")
    handed_back = saved(first)[-1]
    assert (handed_back.step, handed_back.batch) == divmod(at, STEPS)
    torch.manual_seed(12345)  # what another trial may have left behind
    second = run(blobs(), work, tmp_path, resume=handed_back.file.path)
    assert curve(first) + curve(second) == curve(whole)
    assert same_bits(tree(second), tree(whole))


@pytest.mark.parametrize("recipe", [SGD, ADAMW], ids=["momentum", "adamw"])
def test_a_trial_resumed_at_the_end_of_an_epoch_equals_one_never_interrupted(tmp_path, recipe):
    whole = run(blobs(), make_work(params=recipe | NET, epochs=4, keep_snapshot=True), tmp_path)
    clock = iter(range(0, 10**6, 10))
    every = make_work(params=recipe | NET, epochs=4, snapshot_every_seconds=5, keep_snapshot=True)
    often = run(
        blobs(),
        every,
        tmp_path,
        clock=lambda: next(clock),
    )
    assert [(s.step, s.batch, s.final) for s in saved(often)] == [
        (1, 0, False), (2, 0, False), (3, 0, False), (4, 0, True)
    ]  # fmt: skip
    for snapshot in saved(often)[:3]:
        again = run(blobs(), every, tmp_path, resume=snapshot.file.path)
        assert curve(again) == curve(whole)[snapshot.step :]
        assert same_bits(tree(again), tree(whole))


def test_a_trial_whose_last_snapshot_says_it_is_done_ends_at_once(tmp_path):
    work = make_work(params=SGD, keep_snapshot=True)
    done = run(blobs(), work, tmp_path)
    again = run(blobs(), work, tmp_path, resume=saved(done)[-1].file.path)
    assert points(again) == []
    assert ending(again) == Ending("complete", "budget")
    assert same_bits(tree(again), tree(done))


def trunk(tmp_path, recipe, epochs=3):
    work = make_work(params=NET | recipe, epochs=epochs, number=1, keep_snapshot=True)
    return saved(run(blobs(), work, tmp_path))[-1].file.path


BRANCHES = [0.0, 1e-4, 1e-3, 3e-2]


@pytest.mark.parametrize("optimizer", ["sgd", "momentum", "nesterov", "adagrad", "rmsprop", "adam", "adamw"])
def test_each_branch_trains_its_own_weight_decay(tmp_path, optimizer):
    recipe = {"optimizer": optimizer, "lr": 0.05, "batch_size": 8}
    start = trunk(tmp_path, recipe | {"weight_decay": 1e-3})
    ends = []
    for decay in BRANCHES:
        params = recipe | NET | {"weight_decay": decay}
        work = make_work(params=params, epochs=4, number=2, seed=99, keep_snapshot=True)
        end = tree(run(blobs(), work, tmp_path, resume=start))
        assert [g["weight_decay"] for g in end["optimizer"]["param_groups"]] == [decay]
        assert end["params"]["weight_decay"] == decay
        ends.append(end)
    assert not any(same_bits(a["model"], b["model"]) for a in ends for b in ends if a is not b)


def test_a_branch_that_spares_biases_trains_its_own_weight_decay_on_weights_alone(tmp_path):
    recipe = SGD | {"decay_spares": "biases_and_norms"}
    start = trunk(tmp_path, recipe)
    work = make_work(params=recipe | NET | {"weight_decay": 0.03}, epochs=4, number=2, keep_snapshot=True)
    end = tree(run(blobs(), work, tmp_path, resume=start))
    assert [g["weight_decay"] for g in end["optimizer"]["param_groups"]] == [0.03, 0.0]
    assert len({g["lr"] for g in end["optimizer"]["param_groups"]}) == 1  # schedules know both groups


def test_a_branch_that_spares_what_its_trunk_did_not_is_refused(tmp_path):
    start = trunk(tmp_path, SGD)
    work = make_work(params=SGD | NET | {"decay_spares": "biases_and_norms"}, epochs=4, number=2)
    with pytest.raises(SnapshotCorrupt, match=r"groups of \[6\] and \[3, 3\]; was .*decay_spares changed"):
        run(blobs(), work, tmp_path, resume=start)


def test_a_branch_s_steps_are_those_of_its_own_decay_and_rate(tmp_path):
    """One batch an epoch and plain SGD, so that a branch's epoch is one step that can be worked out."""
    recipe = {"optimizer": "sgd", "lr": 0.1, "weight_decay": 0.5, "batch_size": 100}
    start = trunk(tmp_path, recipe | {"dropout": 0.0}, epochs=1)
    work = make_work(
        params=recipe | NET | {"dropout": 0.0, "weight_decay": 0.25, "lr": 0.2}, epochs=2, number=2
    )
    branch = make_work(**work.model_dump() | {"keep_snapshot": True})
    end = tree(run(blobs(), branch, tmp_path, resume=start))["model"]
    entry = blobs()
    model = entry.task.build(NET | {"dropout": 0.0})
    model.load_state_dict(load(start)["model"])
    train = entry.task.splits.train
    nn.functional.cross_entropy(model(train.x), train.y).backward()
    for name, p in model.named_parameters():
        expected = p - 0.2 * (p.grad + 0.25 * p)
        assert torch.allclose(end[name], expected, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("recipe", [SGD, ADAMW | {"schedule": "exponential"}], ids=["momentum", "adamw"])
def test_the_control_branch_equals_the_uninterrupted_trunk(tmp_path, recipe):
    start = trunk(tmp_path, recipe | {"step_size": 2})
    params = recipe | NET | {"step_size": 2}
    whole = run(blobs(), make_work(params=params, epochs=6, number=1, keep_snapshot=True), tmp_path)
    control = make_work(params=params, epochs=6, number=2, seed=99, keep_snapshot=True)
    branch = run(blobs(), control, tmp_path, resume=start)
    assert curve(branch) == curve(whole)[3:]
    for part in ("model", "optimizer", "rng", "seed"):
        assert same_bits(tree(branch)[part], tree(whole)[part])


def test_a_branch_s_own_curve_decides_when_it_stops(tmp_path):
    flat = {"lr": 0.0, "early_stopping": 3}
    start = trunk(tmp_path, flat, epochs=3)
    own = run(blobs(), make_work(params=flat | NET, epochs=9, number=1), tmp_path, resume=start)
    other = run(blobs(), make_work(params=flat | NET, epochs=9, number=2), tmp_path, resume=start)
    assert [p.step for p in points(own)] == [4]
    assert [p.step for p in points(other)] == [4, 5, 6, 7]


def test_a_branch_with_other_batches_begins_a_half_done_epoch_again(tmp_path):
    first = run(blobs(), make_work(params=SGD | NET), tmp_path, asked=wish_at(STEPS + 2))
    work = make_work(params=SGD | NET | {"batch_size": 20}, number=2)
    again = run(blobs(), work, tmp_path, resume=saved(first)[-1].file.path)
    assert [p.step for p in points(again)] == [2, 3]


def test_a_warm_process_trains_as_a_fresh_one(tmp_path):
    work = make_work(params=ADAMW | NET, keep_snapshot=True)
    alone = tree(run(blobs(), work, tmp_path))
    for other in range(10):
        run(blobs(), make_work(params=SGD | NET, seed=other, epochs=1), tmp_path)
    assert same_bits(tree(run(blobs(), work, tmp_path)), alone)


# --- snapshots that do not fit --------------------------------------------------------------------


def test_a_snapshot_of_another_model_is_refused_with_its_names(tmp_path):
    start = trunk(tmp_path, SGD)
    work = make_work(params=SGD | NET | {"hidden": 8})
    with pytest.raises(SnapshotCorrupt, match=r"1.weight is torch.float32 \[16, 4\] in it and .*\[8, 4\]"):
        run(blobs(), work, tmp_path, resume=start)


def test_a_branch_may_differ_in_dropout(tmp_path):
    start = trunk(tmp_path, SGD | {"dropout": 0.0})
    work = make_work(params=SGD | NET | {"dropout": 0.5}, number=2, epochs=4)
    assert [p.step for p in points(run(blobs(), work, tmp_path, resume=start))] == [4]


@pytest.mark.parametrize("missing", ["model", "optimizer", "epoch", "rng", "trial", "seed"])
def test_a_snapshot_that_lacks_a_part_is_refused(tmp_path, missing):
    said = run(blobs(), make_work(params=SGD, keep_snapshot=True), tmp_path)
    parts = {k: v for k, v in tree(said).items() if k != missing}
    with pytest.raises(SnapshotCorrupt, match=missing):
        run(blobs(), make_work(params=SGD, epochs=9), tmp_path, resume=save(tmp_path / "x", parts).path)


# --- what it reports ------------------------------------------------------------------------------


def test_each_epoch_reports_losses_accuracy_rate_and_seconds(tmp_path):
    work = make_work(params={"lr": 0.1, "schedule": "exponential", "gamma": 0.5}, epochs=2)
    clock = Ticking(training=2.0, evaluating=0.5)
    said = run(clock.task(), work, tmp_path, clock=clock)
    assert [p.step for p in points(said)] == [1, 2]
    assert set(points(said)[0].metrics) == {
        "train/loss", "train/noise", "train/accuracy", "val/loss", "val/accuracy", "grad/norm",
        "sys/lr", "sys/epoch_seconds", "sys/train_seconds", "sys/samples_per_second",
    }  # fmt: skip
    assert [p.metrics["sys/lr"] for p in points(said)] == [0.1, 0.05]
    assert [p.metrics["sys/epoch_seconds"] for p in points(said)] == [4.5, 4.5]
    assert [p.metrics["sys/train_seconds"] for p in points(said)] == [4.0, 4.0]
    assert [p.metrics["sys/samples_per_second"] for p in points(said)] == [10.0, 10.0]
    assert ending(said) == Ending("complete", "budget")


def test_losses_and_accuracy_are_means_over_their_split(tmp_path):
    """At rate 0 the model stays, so every number can be computed beside the trainer."""
    entry, work = blobs(), make_work(params={"lr": 0.0, "batch_size": 7, "label_smoothing": 0.3}, epochs=1)
    metrics = points(run(entry, work, tmp_path))[0].metrics
    torch.manual_seed(work.seed)
    model = entry.task.build({})
    train, val = entry.task.splits.train, entry.task.splits.val
    loss = nn.functional.cross_entropy
    assert metrics["train/loss"] == pytest.approx(loss(model(train.x), train.y).item(), rel=1e-6)
    assert metrics["val/loss"] == pytest.approx(loss(model(val.x), val.y).item(), rel=1e-6)
    assert metrics["val/accuracy"] == pytest.approx((model(val.x).argmax(1) == val.y).float().mean().item())


def test_dropout_is_off_in_evaluation(tmp_path):
    params = {"lr": 0.0, "hidden": 64}
    plain = points(run(blobs(), make_work(params=params), tmp_path))
    dropped = points(run(blobs(), make_work(params=params | {"dropout": 0.5}), tmp_path))
    assert [p.metrics["val/loss"] for p in plain] == [p.metrics["val/loss"] for p in dropped]
    assert plain[0].metrics["train/loss"] != dropped[0].metrics["train/loss"]


def test_the_test_split_is_never_touched(tmp_path):
    poisoned = Split(torch.full((5, 4), math.nan), torch.full((5,), 10**6))
    work = make_work(params=SGD | NET)
    assert curve(run(blobs(test=poisoned), work, tmp_path)) == curve(run(blobs(), work, tmp_path))


def test_accumulated_batches_make_the_step_of_one_large_batch(tmp_path):
    small = make_work(params={"batch_size": 5, "accumulation": 4, "lr": 0.1}, keep_snapshot=True)
    large = make_work(params={"batch_size": 20, "lr": 0.1}, keep_snapshot=True)
    one, other = (tree(run(blobs(), w, tmp_path))["model"] for w in (small, large))
    assert all(torch.allclose(one[k], other[k], rtol=1e-5, atol=1e-6) for k in one)


def test_a_fraction_of_the_data_trains_fewer_steps(tmp_path):
    seen = []
    entry = blobs()
    build = entry.task.build

    def counting(params):
        model = build(params)
        model.register_forward_pre_hook(lambda m, x: seen.append(len(x[0])) if m.training else None)
        return model

    run(blobs(build=counting), make_work(params={"batch_size": 8}, epochs=1, data_fraction=0.5), tmp_path)
    assert sum(seen) in range(19, 22)


def test_smoothed_labels_train_towards_all_classes_and_are_not_in_the_reported_loss(tmp_path):
    """One step of plain SGD on all samples, worked out beside the trainer."""
    params = {"lr": 0.5, "batch_size": 100, "label_smoothing": 0.4}
    said = run(blobs(), make_work(params=params, epochs=1, keep_snapshot=True), tmp_path)
    entry = blobs()
    torch.manual_seed(7)
    model = entry.task.build({})
    train = entry.task.splits.train
    plain = nn.functional.cross_entropy(model(train.x), train.y).item()
    nn.functional.cross_entropy(model(train.x), train.y, label_smoothing=0.4).backward()
    assert points(said)[0].metrics["train/loss"] == pytest.approx(plain, rel=1e-6)
    for name, p in model.named_parameters():
        assert torch.allclose(tree(said)["model"][name], p - 0.5 * p.grad, atol=1e-6)


def test_a_clipped_gradient_takes_smaller_steps(tmp_path):
    def moved(clip):
        params = {"lr": 1.0, "batch_size": 100, "clip_norm": clip}
        end = tree(run(blobs(), make_work(params=params, epochs=1, keep_snapshot=True), tmp_path))["model"]
        torch.manual_seed(7)
        start = blobs().task.build({}).state_dict()
        return math.sqrt(sum(((end[k] - start[k]) ** 2).sum().item() for k in start))

    assert moved(0.01) == pytest.approx(0.01, rel=1e-3)
    assert moved(0.0) > 0.05


# --- how it ends ----------------------------------------------------------------------------------


def test_a_rate_far_too_high_ends_as_diverged_after_a_point_that_says_so(tmp_path):
    said = run(blobs(), make_work(params={"lr": 1e20}, epochs=50, keep_snapshot=True), tmp_path)
    assert ending(said) == Ending("pruned", "diverged")
    assert not math.isfinite(points(said)[-1].metrics["train/loss"])
    assert len(points(said)) < 50
    assert saved(said) == []


def ends(losses, **changes):
    """After which of these validation losses a trial ends, and how; None if it does not."""
    track = Curve(make_work(**changes), classes=10)
    for step, loss in enumerate(losses, 1):
        track.add(step, {"val/loss": loss, "val/accuracy": 0.5})
        if found := track.ending():
            return step, found.stop_reason
    return None


def test_a_loss_that_rises_past_four_times_its_best_and_three_times_chance_has_diverged():
    chance = math.log(10)
    assert ends([0.5, 1.0, 3.1 * chance, 0.1]) == (3, "diverged")
    assert ends([0.5, 2.9 * chance, 0.1]) is None  # an overfitting trial, still below three times chance
    assert ends([2.0, 3.4 * chance, 0.1]) is None  # a bad start, not four times the best
    assert ends([0.5, math.nan]) == (2, "diverged")
    assert ends([math.inf]) == (1, "diverged")


def test_a_loss_in_unknown_units_diverges_only_where_it_is_not_finite():
    track = Curve(make_work(), classes=None)
    track.add(1, {"val/loss": 0.001})
    track.add(2, {"val/loss": 900.0})
    assert track.ending() is None
    track.add(3, {"val/loss": math.inf})
    assert track.ending() == Ending("pruned", "diverged")


def test_early_stopping_waits_for_its_patience():
    losses = [1.0, 0.9, 0.95, 0.9, 0.89995, 0.8, 0.85, 0.85, 0.85, 0.7]
    assert ends(losses, params={"early_stopping": 3}) == (5, "early_stopping")
    assert ends(losses, params={"early_stopping": 4}) is None
    assert ends(losses) is None


def test_early_stopping_of_an_accuracy_looks_upwards(tmp_path):
    work = make_work(
        params={"lr": 0.0, "early_stopping": 2}, epochs=9, metric="val/accuracy", direction="maximize"
    )
    said = run(blobs(), work, tmp_path)
    assert len(points(said)) == 3
    assert ending(said) == Ending("complete", "early_stopping")


def test_a_trunk_stops_at_its_plateau_with_a_snapshot(tmp_path):
    work = make_work(params={"lr": 0.0}, epochs=50, stop_at_plateau=True, keep_snapshot=True)
    said = run(blobs(), work, tmp_path)
    assert ending(said) == Ending("complete", "plateau")
    assert len(points(said)) == 10  # a window of five and five epochs without a gain
    assert (saved(said)[-1].step, saved(said)[-1].final) == (10, True)


def test_rules_count_the_epochs_before_an_interruption(tmp_path):
    work = make_work(params={"lr": 0.0, "batch_size": 8}, epochs=50, stop_at_plateau=True)
    first = run(blobs(), work, tmp_path, asked=wish_at(6 * STEPS + 2))
    second = run(blobs(), work, tmp_path, resume=saved(first)[-1].file.path)
    assert len(points(first)) == 6
    assert [p.step for p in points(second)] == [7, 8, 9, 10]


def test_an_abandoned_trial_stops_before_its_next_step_and_writes_nothing(tmp_path):
    said = run(blobs(), make_work(params=SGD), tmp_path, asked=wish_at(STEPS + 1, "abandon"))
    assert len(points(said)) == 1
    assert ending(said) == Ending("abandoned")
    assert [p for p in tmp_path.rglob("*") if p.is_file()] == []


@pytest.mark.parametrize(
    ("params", "error", "message"),
    [
        ({"width": 8}, TaskError, "blobs takes model, hidden, depth, dropout, .*; it does not know width"),
        ({"hidden": 0}, TaskError, "hidden must be a whole number from 1 to 65536, got 0"),
        ({"dropout": 1.0}, TaskError, r"dropout must be in \[0, 1\), got 1.0"),
        ({"model": "cnn"}, TaskError, "model must be mlp for blobs, got 'cnn'"),
        ({"batch_size": 0}, ValueError, "batch_size must be a whole number from 1 up, got 0"),
    ],
)
def test_a_hyperparameter_that_makes_no_training_is_named(tmp_path, params, error, message):
    with pytest.raises(error, match=message):
        run(blobs(), make_work(params=params), tmp_path)


def test_threads_are_those_asked_for(tmp_path):
    before = torch.get_num_threads()
    try:
        next(iter(trainer.epochs(blobs(), make_work(), device=CPU, scratch=tmp_path, threads=2)))
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_a_model_with_batch_normalisation_trains_and_goes_on(tmp_path):
    def build(params):
        return nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3))

    work = make_work(params={"batch_size": 13, "lr": 0.1}, keep_snapshot=True)  # 40 = 13 + 13 + 13 + 1
    whole = run(blobs(build=build), work, tmp_path)
    first = run(blobs(build=build), work, tmp_path, asked=wish_at(4))
    second = run(blobs(build=build), work, tmp_path, resume=saved(first)[-1].file.path)
    assert tree(whole)["model"]["1.num_batches_tracked"].item() == 9
    assert same_bits(tree(second)["model"], tree(whole)["model"])


def test_a_model_that_writes_into_its_input_leaves_the_task_s_data_alone(tmp_path):
    class Shifting(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(4, 3)

        def forward(self, x):
            return self.linear(x.sub_(1.0))

    entry = blobs(build=lambda params: Shifting())
    splits = entry.task.splits
    before = [splits.train.x.clone(), splits.val.x.clone()]
    run(entry, make_work(), tmp_path)
    assert same_bits(before, [splits.train.x, splits.val.x])


def test_a_trial_s_log_says_what_was_trained_and_how_it_ended(tmp_path, capsys):
    said = run(blobs(), make_work(metric="val/accuracy", direction="maximize"), tmp_path)
    accuracies = [p.metrics["val/accuracy"] for p in points(said)]
    best = max(accuracies)
    assert capsys.readouterr().out.splitlines() == [
        "Sequential of 4,675 parameters on cpu; 40 samples to train, 20 to validate; 2 steps an epoch",
        f"complete (budget) after 3 of 3 epochs; best val/accuracy {best:.6g} "
        f"in epoch {accuracies.index(best) + 1}",
    ]


def test_the_log_of_a_trial_handed_back_and_resumed_says_where(tmp_path, capsys):
    first = run(blobs(), make_work(), tmp_path, asked=wish_at(3))
    run(blobs(), make_work(), tmp_path, resume=saved(first)[-1].file.path)
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].startswith("released after 1 of 3 epochs; best val/loss")
    assert lines[2].endswith("2 steps an epoch; goes on after epoch 1, step 1")


def test_what_a_loop_before_set_for_all_of_torch_is_set_back(tmp_path):
    entry = blobs()
    alone = run(entry, make_work(keep_snapshot=True), tmp_path)
    try:
        torch.set_default_device("meta")
        torch.set_float32_matmul_precision("medium")
        torch.set_flush_denormal(True)
        torch.set_autocast_enabled("cpu", True)
        torch.autograd.set_detect_anomaly(True, check_nan=False)
        after = run(entry, make_work(keep_snapshot=True), tmp_path)
        assert torch.get_float32_matmul_precision() == "highest"
        assert not torch.is_anomaly_enabled()
        assert (torch.tensor([1e-310], dtype=torch.float64) * 0.5).item() > 0
    finally:
        torch.set_default_device(None)
        torch.set_float32_matmul_precision("highest")
        torch.set_flush_denormal(False)
        torch.set_autocast_enabled("cpu", False)
        torch.autograd.set_detect_anomaly(False)
    assert same_bits(tree(alone), tree(after))


def test_samples_kept_beside_training_are_told_apart_from_validation_of_another_kind(tmp_path):
    """Where validation is unlike training, train-dev stays with training: that is mismatch, not variance."""
    entry = blobs(samples=240)
    splits = entry.task.splits
    x, y = splits.train.x, splits.train.y
    shifted = Splits(
        Split(x[:120], y[:120]),
        Split(splits.val.x + 3, splits.val.y),
        train_dev=Split(x[120:], y[120:]),
    )
    moved = blobs(samples=240, splits=shifted)
    last = points(run(moved, make_work(params={"lr": 0.1}, epochs=8), tmp_path))[-1].metrics
    assert last["train_dev/loss"] - last["train/loss"] < last["val/loss"] - last["train_dev/loss"]
    assert {"train_dev/loss", "train_dev/accuracy"} <= last.keys()
    found = decomposed(
        {"target": 0.0} | {n: last[f"{n}/loss"] for n in ("train", "train_dev", "val")}, Objective()
    )
    assert found is not None
    assert found.numbers["gaps"]["train_dev-val"] > found.numbers["gaps"]["train-train_dev"]


def test_a_promotion_that_cools_down_equals_one_training_that_does(tmp_path):
    """At a constant rate until the cooldown begins, the snapshot of a training without one is its prefix."""
    entry, whole = blobs(), make_work(params=SGD | {"schedule": "constant", "cooldown": 0.5}, epochs=6)
    short = run(
        entry, make_work(params=SGD | {"schedule": "constant"}, epochs=3, keep_snapshot=True), tmp_path
    )
    onward = run(entry, whole, tmp_path, resume=saved(short)[-1].file.path)
    alone = run(entry, whole, tmp_path)
    assert curve(short) + curve(onward) == curve(alone)
    assert points(onward)[-1].metrics["sys/lr"] < SGD["lr"] / 10
