"""Budgets in steps and seconds, evaluations between epochs, and folds; equality is to the bit."""

import pytest
import torch
from training import Ticking, blobs, ending, make_work, points, run, same_bits, saved, tree, wish_at
from tunesmith_workers.endings import Ending
from tunesmith_workers.snapshots import load

STEPS = 5  # optimizer steps an epoch: 40 samples in batches of 8
PARAMS = {"optimizer": "momentum", "lr": 0.1, "batch_size": 8, "hidden": 16, "dropout": 0.3}
CLOCKS = {"sys/epoch_seconds", "sys/train_seconds", "sys/samples_per_second"}


def curve(said):
    """The points without what a clock says."""
    return [(p.step, {k: v for k, v in p.metrics.items() if k not in CLOCKS}) for p in points(said)]


def order(**changes):
    return make_work(**({"params": PARAMS, "epochs": 9, "keep_snapshot": True} | changes))


# --- steps ----------------------------------------------------------------------------------------


def test_a_budget_in_steps_ends_within_an_epoch_and_counts_points_and_snapshots_in_steps(tmp_path):
    said = run(blobs(), order(steps=12), tmp_path)
    assert [p.step for p in points(said)] == [5, 10, 12]
    assert [p.metrics["sys/epoch"] for p in points(said)] == pytest.approx([1.0, 2.0, 2.4])
    assert [(s.step, s.batch, s.final) for s in saved(said)] == [(12, 0, True)]
    assert ending(said) == Ending("complete", "budget")


def test_epochs_are_the_most_there_may_be_of_a_budget_in_steps(tmp_path):
    said = run(blobs(), order(steps=99, epochs=2), tmp_path)
    assert [p.step for p in points(said)] == [5, 10]


def test_a_budget_of_whole_epochs_in_steps_trains_what_epochs_train(tmp_path):
    one, other = (run(blobs(), order(**b), tmp_path) for b in ({"steps": 15}, {"epochs": 3}))
    assert same_bits(tree(one)["model"], tree(other)["model"])
    names = ("train/loss", "train/accuracy", "val/loss", "val/accuracy")
    assert [[p.metrics[n] for n in names] for p in points(one)] == [
        [p.metrics[n] for n in names] for p in points(other)
    ]


@pytest.mark.parametrize("at", [0, 3, 4, 5, 7, 11], ids=lambda n: f"step{n}")
@pytest.mark.parametrize("schedule", ["constant", "cosine", "one_cycle"])
def test_a_trial_that_counts_steps_goes_on_from_any_of_them(tmp_path, schedule, at):
    work = order(steps=12, validate_every=4, params=PARAMS | {"schedule": schedule, "clip_norm": 1.0})
    whole = run(blobs(), work, tmp_path)
    first = run(blobs(), work, tmp_path, asked=wish_at(at))
    assert (saved(first)[-1].step, saved(first)[-1].batch) == (at, 0)
    second = run(blobs(), work, tmp_path, resume=saved(first)[-1].file.path)
    assert curve(first) + curve(second) == curve(whole)
    assert same_bits(tree(second), tree(whole))


def test_the_epochs_of_a_branch_are_those_that_it_trained_itself(tmp_path):
    trunk = run(blobs(), order(steps=7), tmp_path)
    work = order(steps=14, number=2)
    first = run(blobs(), work, tmp_path, resume=saved(trunk)[-1].file.path, asked=wish_at(5))
    second = run(blobs(), work, tmp_path, resume=saved(first)[-1].file.path)
    branch = points(first) + points(second)
    assert [p.step for p in branch] == [10, 14]
    assert [p.metrics["sys/epoch"] for p in branch] == pytest.approx([0.6, 1.4])


def test_a_cosine_over_a_budget_in_steps_ends_at_zero(tmp_path):
    said = run(blobs(), order(steps=7, params=PARAMS | {"schedule": "cosine"}), tmp_path)
    rates = [p.metrics["sys/lr"] for p in points(said)]
    assert rates[-1] == pytest.approx(0.1 * (1 + torch.cos(torch.tensor(6 / 7 * torch.pi)).item()) / 2)


# --- evaluations ----------------------------------------------------------------------------------


def test_it_validates_every_so_many_steps_and_at_the_end_of_each_epoch(tmp_path):
    said = run(blobs(), order(validate_every=2, epochs=2), tmp_path)
    assert [p.step for p in points(said)] == [2, 4, 5, 6, 8, 10]
    assert [p.metrics["sys/epoch"] for p in points(said)] == pytest.approx([0.4, 0.8, 1.0, 1.2, 1.6, 2.0])
    assert all({"train/loss", "val/loss", "val/accuracy"} <= p.metrics.keys() for p in points(said))


def test_evaluations_in_between_change_nothing_in_training(tmp_path):
    often, seldom = (run(blobs(), order(epochs=3, validate_every=n), tmp_path) for n in (1, 0))
    assert same_bits(tree(often)["model"], tree(seldom)["model"])
    ends = [p for p in points(often) if p.step % STEPS == 0]
    assert [p.metrics["val/loss"] for p in ends] == [p.metrics["val/loss"] for p in points(seldom)]


def test_the_training_loss_of_a_point_is_that_of_the_steps_since_the_one_before(tmp_path):
    """At rate 0 the model stays, so the parts' losses make the epoch's, by their samples."""
    params = {"lr": 0.0, "batch_size": 8}
    often, seldom = (run(blobs(), order(params=params, epochs=1, validate_every=n), tmp_path) for n in (2, 0))
    losses = [p.metrics["train/loss"] for p in points(often)]
    assert len(set(losses)) == 3
    assert (16 * losses[0] + 16 * losses[1] + 8 * losses[2]) / 40 == pytest.approx(
        points(seldom)[0].metrics["train/loss"]
    )


def test_early_stopping_counts_evaluations(tmp_path):
    params = PARAMS | {"lr": 0.0, "early_stopping": 3}
    said = run(blobs(), order(params=params, validate_every=2), tmp_path)
    assert [p.step for p in points(said)] == [2, 4, 5, 6]
    assert ending(said) == Ending("complete", "early_stopping")


# --- seconds --------------------------------------------------------------------------------------


def test_a_budget_in_seconds_counts_training_and_neither_evaluations_nor_snapshots(tmp_path):
    clock = Ticking(training=1.0, evaluating=100.0)
    said = run(clock.task(), order(seconds=7.0), tmp_path, clock=clock)
    assert [p.step for p in points(said)] == [5, 7]
    assert [p.metrics["sys/train_seconds"] for p in points(said)] == [5.0, 2.0]
    assert [p.metrics["sys/epoch_seconds"] for p in points(said)] == [105.0, 102.0]
    assert tree(said)["train_seconds"] == 7.0
    assert ending(said) == Ending("complete", "budget")


@pytest.mark.parametrize("at", [2, 5, 6])
def test_seconds_spent_before_an_interruption_count(tmp_path, at):
    def clock():
        return Ticking(training=1.0, evaluating=10.0)

    work, time = order(seconds=7.0), clock()
    whole = run(time.task(), work, tmp_path, clock=time)
    time = clock()
    first = run(time.task(), work, tmp_path, clock=time, asked=wish_at(at))
    time = clock()
    second = run(time.task(), work, tmp_path, clock=time, resume=saved(first)[-1].file.path)
    assert curve(first) + curve(second) == curve(whole)
    assert same_bits(tree(second), tree(whole))


@pytest.mark.parametrize(
    "params",
    [{"schedule": "cosine"}, {"schedule": "one_cycle"}, {"schedule": "step"}, {"schedule": "piecewise"}],
    ids=lambda p: p["schedule"],
)
def test_a_schedule_that_needs_a_length_is_refused_with_a_budget_in_seconds(tmp_path, params):
    with pytest.raises(ValueError, match=f"schedule {params['schedule']} depends on how long .* 5 seconds"):
        run(blobs(), order(seconds=5.0, params=PARAMS | params), tmp_path)


def test_a_schedule_by_epochs_goes_with_a_budget_in_seconds(tmp_path):
    clock = Ticking(training=1.0, evaluating=0.0)
    params = PARAMS | {"schedule": "piecewise", "milestones": "1,2"}
    said = run(clock.task(), order(seconds=12.0, params=params), tmp_path, clock=clock)
    assert [p.metrics["sys/lr"] for p in points(said)] == pytest.approx([0.1, 0.01, 0.001])


# --- folds ----------------------------------------------------------------------------------------


def test_each_fold_trains_on_all_but_its_part_and_validates_on_it(tmp_path):
    entry = blobs()
    seen = {True: [], False: []}
    build = entry.task.build

    def watched(params):
        model = build(params)
        model.register_forward_pre_hook(lambda m, x: seen[m.training].append(x[0].clone()))
        return model

    validated = []
    for i in range(3):
        seen[True], seen[False] = [], []
        run(blobs(build=watched), order(fold=(i, 3), epochs=1), tmp_path)
        trained, judged = (set(map(tuple, torch.cat(seen[mode]).tolist())) for mode in (True, False))
        assert (len(trained), len(judged)) == (40, 20)
        assert not trained & judged
        validated.append(judged)
    assert len(set.union(*validated)) == 60


def test_a_trial_in_a_fold_goes_on_from_its_middle(tmp_path):
    work = order(fold=(1, 4), epochs=2)
    whole = run(blobs(), work, tmp_path)
    first = run(blobs(), work, tmp_path, asked=wish_at(8))
    second = run(blobs(), work, tmp_path, resume=saved(first)[-1].file.path)
    assert curve(first) + curve(second) == curve(whole)
    assert same_bits(tree(second), tree(whole))


def test_trials_that_spend_no_seconds_leave_equal_snapshots_however_long_they_take(tmp_path):
    quick, slow = (Ticking(training=t, evaluating=1.0) for t in (1.0, 2.0))
    ends = [tree(run(c.task(), order(), tmp_path, clock=c)) for c in (quick, slow)]
    assert same_bits(*ends)


# --- what the clock says --------------------------------------------------------------------------


def test_samples_a_second_are_those_of_this_attempt(tmp_path):
    clock = Ticking(training=2.0, evaluating=7.0)
    first = run(clock.task(), order(epochs=1), tmp_path, clock=clock, asked=wish_at(3))
    clock = Ticking(training=4.0, evaluating=7.0)  # a slower machine
    second = run(clock.task(), order(epochs=1), tmp_path, clock=clock, resume=saved(first)[-1].file.path)
    assert points(second)[0].metrics["sys/samples_per_second"] == 2.0
    assert points(second)[0].metrics["sys/train_seconds"] == 2 * 4.0


def test_a_snapshot_says_how_far_it_is_in_steps_and_seconds(tmp_path):
    clock = Ticking(training=2.0, evaluating=7.0)
    said = run(clock.task(), order(seconds=99.0), tmp_path, clock=clock, asked=wish_at(7))
    found = load(saved(said)[-1].file.path)
    assert [found[k] for k in ("epoch", "batch", "steps", "train_seconds")] == [1, 2, 7, 14.0]
