"""The trainer's craft on a real task: each word changes what it should, and going on stays exact."""

from dataclasses import replace
from functools import cache

import pytest
import torch
from safetensors.torch import save_file
from training import ending, make_work, points, run, same_bits, saved, tree, wish_at
from tunesmith_studies.vocabulary import AUGMENTATIONS, HYPERPARAMETERS
from tunesmith_workers.endings import Ending
from tunesmith_workers.tasks import digits, models
from tunesmith_workers.tasks.registry import Entry, Task
from tunesmith_workers.weights import read_weights

STEPS = 7  # optimizer steps an epoch: a fifth of digits' training split, 216 samples, in chunks of 32
BASE = {"model": "cnn", "hidden": 16, "lr": 0.01, "optimizer": "adamw", "batch_size": 16, "accumulation": 2}
AUGMENTED = {
    "crop": 1, "flip": 0.5, "flip_vertical": 0.5, "rotation": 15.0, "noise": 0.1, "cutout": 0.3,
    "erasing": 0.3, "mixup": 0.4, "cutmix": 1.0,
}  # fmt: skip
CRAFT = {
    "batch_norm": True, "preprocessing": "per_channel", "init": "he", "init_from": "start",
    "pretrain_epochs": 1, "freeze": "all_but_ends", "unfreeze_epoch": 1,
}  # fmt: skip
EVERYTHING = BASE | AUGMENTED | CRAFT | {"dropout": 0.2, "label_smoothing": 0.1, "clip_norm": 1.0}


@cache
def digits_task() -> Task:
    return digits.task()


@pytest.fixture
def entry(tmp_path) -> Entry:
    """Digits, with weights to start from that have other classes."""
    shape = models.Shape(sample=(1, 8, 8), classes=3)
    torch.manual_seed(99)
    other = models.build("other", shape, {"model": "cnn", "hidden": 16, "batch_norm": True})
    save_file(other.state_dict(), tmp_path / "start.safetensors")
    weights = {"start": read_weights("start", tmp_path / "start.safetensors")}
    return Entry("digits", replace(digits_task(), weights=weights), "0" * 64)


def order(params, **changes):
    return make_work(
        **({"params": params, "epochs": 2, "data_fraction": 0.2, "keep_snapshot": True} | changes)
    )


def curve(said):
    """The points without what a clock says."""
    return [(p.step, {k: v for k, v in p.metrics.items() if not k.startswith("sys/")}) for p in points(said)]


def model_of(said):
    return tree(said)["model"]


# --- one by one -----------------------------------------------------------------------------------

WORDS = [
    *({name: value} for name, value in AUGMENTED.items()),
    {"preprocessing": "standardise"}, {"preprocessing": "per_channel"}, {"pretrain_epochs": 1},
    {"init": "xavier"}, {"init": "he"}, {"init": "orthogonal"}, {"init_from": "start"},
    {"freeze": "all_but_head"}, {"freeze": "all_but_ends"}, {"batch_norm": True},
]  # fmt: skip


def test_every_word_of_the_craft_changes_what_is_trained(entry, tmp_path):
    plain = run(entry, order(BASE, epochs=1), tmp_path)
    seen = [model_of(plain)]
    for word in WORDS:
        said = run(entry, order(BASE | word, epochs=1), tmp_path)
        assert ending(said).state == "complete"
        assert not any(same_bits(model_of(said), other) for other in seen), f"{word} changes nothing"
        seen.append(model_of(said))


def test_evaluation_never_sees_augmentation(entry, tmp_path):
    still = BASE | {"optimizer": "sgd", "lr": 0.0}
    plain = points(run(entry, order(still, epochs=1), tmp_path))[0].metrics
    for name, value in AUGMENTED.items():
        found = points(run(entry, order(still | {name: value}, epochs=1), tmp_path))[0].metrics
        assert found["val/loss"] == plain["val/loss"], name
        assert found["train/loss"] != plain["train/loss"], name


def test_words_that_are_off_leave_every_bit_as_it_was(entry, tmp_path):
    off = {name: HYPERPARAMETERS[name].default for name in [*AUGMENTATIONS, *CRAFT]}
    one, other = run(entry, order(BASE), tmp_path), run(entry, order(BASE | off), tmp_path)
    assert same_bits(model_of(one), model_of(other))
    assert curve(one) == curve(other)


def test_image_words_on_a_table_end_the_trial_in_words(tmp_path, entry):
    flat = Entry("flat", replace(entry.task, splits=flattened(entry.task)), "0" * 64)
    with pytest.raises(ValueError, match=r"no rotation or cutmix without images .* have shape \[64\]"):
        run(flat, order({"rotation": 5.0, "cutmix": 1.0}), tmp_path)
    said = run(flat, order({"noise": 0.1, "mixup": 0.3, "preprocessing": "whiten"}), tmp_path)
    assert ending(said) == Ending("complete", "budget")


def flattened(task: Task):
    def flat(split):
        return replace(split, x=split.x.flatten(1))

    splits = task.splits
    return replace(splits, train=flat(splits.train), val=flat(splits.val), test=flat(splits.test))


# --- all at once ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "at", [0, 9, 14, 16, 14 + STEPS - 1, 14 + STEPS, 14 + STEPS + 3], ids=lambda n: f"step{n}"
)
def test_with_every_word_on_a_trial_handed_back_at_any_step_goes_on_to_the_same_bits(entry, tmp_path, at):
    """Before, in and after pre-training (14 steps of 16), while layers are frozen and once they are not."""
    work = order(EVERYTHING)
    whole = run(entry, work, tmp_path)
    first = run(entry, work, tmp_path, asked=wish_at(at))
    assert ending(first) == Ending("released")
    torch.manual_seed(12345)  # what another trial may have left behind
    second = run(entry, work, tmp_path, resume=saved(first)[-1].file.path)
    assert curve(first) + curve(second) == curve(whole)
    for part in ("model", "optimizer", "rng", "curve"):
        assert same_bits(tree(second)[part], tree(whole)[part]), part


def test_a_snapshot_after_pre_training_holds_no_more_of_it_than_its_count(entry, tmp_path):
    kept = tree(run(entry, order(EVERYTHING, epochs=1), tmp_path))["pretraining"]
    assert kept["epoch"] == 1
    assert kept["optimizer"]["state"] == {}


def test_with_every_word_on_a_warm_process_trains_as_a_fresh_one(entry, tmp_path):
    alone = run(entry, order(EVERYTHING), tmp_path)
    run(entry, order(BASE | {"rotation": 30.0, "freeze": "all_but_head"}, seed=3), tmp_path)
    again = run(entry, order(EVERYTHING), tmp_path)
    assert same_bits(model_of(again), model_of(alone))
    assert curve(again) == curve(alone)


def test_frozen_layers_keep_their_weights_and_statistics_until_they_are_unfrozen(entry, tmp_path):
    params = BASE | {"batch_norm": True, "freeze": "all_but_head", "unfreeze_epoch": 1, "weight_decay": 0.1}
    start = model_of(run(entry, order(params, epochs=1), tmp_path))
    shape = models.Shape(sample=(1, 8, 8), classes=10)
    torch.manual_seed(7)
    fresh = models.build("digits", shape, {"model": "cnn", "hidden": 16, "batch_norm": True}).state_dict()
    changed = {name for name in fresh if not torch.equal(fresh[name], start[name])}
    assert changed == {"13.weight", "13.bias"}
    later = model_of(run(entry, order(params, epochs=2), tmp_path))
    assert all(not torch.equal(start[name], later[name]) for name in fresh)


def test_a_branch_may_differ_in_augmentation_and_in_what_is_frozen(entry, tmp_path):
    trunk = run(entry, order(BASE, epochs=1), tmp_path)
    for word in [{"mixup": 0.4}, {"crop": 1}, {"freeze": "all_but_head"}]:
        assert all(HYPERPARAMETERS[name].mid_training for name in word)
        branch = order(BASE | word, epochs=2, number=2)
        said = run(entry, branch, tmp_path, resume=saved(trunk)[-1].file.path)
        assert [p.step for p in points(said)] == [2]


# --- where it starts ------------------------------------------------------------------------------


def test_a_trial_starts_from_the_weights_that_init_from_names_and_its_log_says_what_fitted(
    entry, tmp_path, capsys
):
    still = {"model": "cnn", "hidden": 16, "batch_norm": True, "lr": 0.0, "init_from": "start"}
    first = run(entry, order(still | {"freeze": "all_but_head"}), tmp_path, asked=wish_at(3))
    weights = entry.task.weights["start"]
    found = model_of(first)
    assert torch.equal(found["0.weight"], weights.tensors["0.weight"])
    assert found["13.weight"].shape == (10, 16)
    line = capsys.readouterr().out.splitlines()[0]
    assert f"starts from start (sha256 {weights.sha256[:12]}), which gives 21 of 23 tensors" in line
    assert "fresh: 13.weight, 13.bias" in line
    assert "all_but_head: 170 of" in line
    run(entry, order(still), tmp_path, resume=saved(first)[-1].file.path)
    assert "starts from" not in capsys.readouterr().out


def test_weights_that_the_worker_does_not_have_are_named_with_those_it_has(entry, tmp_path):
    with pytest.raises(ValueError, match=r"init_from names 'vgg', .* \(it has start\): .*vgg=FILE"):
        run(entry, order({"init_from": "vgg"}), tmp_path)


def test_pre_training_is_said_in_the_log_and_counted_as_passes(entry, tmp_path, capsys):
    said = run(entry, order(BASE | {"pretrain_epochs": 3}), tmp_path)
    assert [(p.step, p.metrics["sys/epoch"]) for p in points(said)] == [(1, 4.0), (2, 5.0)]
    assert "hidden layers pre-trained (3) to epoch 3" in capsys.readouterr().out
    branch = order(BASE | {"pretrain_epochs": 3}, epochs=3, number=2)
    run(entry, branch, tmp_path, resume=saved(said)[-1].file.path)
    assert "pre-trained" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("params", "names"),
    [
        ({}, ["1", "4", "7"]),
        ({"batch_norm": True}, ["1", "2", "5", "6", "9"]),
        ({"model": "cnn"}, ["0", "3", "7", "10"]),
        ({"model": "cnn", "batch_norm": True}, ["0", "1", "4", "5", "9", "10", "13"]),
    ],
)
def test_a_model_s_names_are_those_of_snapshots_before_batch_norm_unless_it_is_on(params, names):
    state = digits_task().build(params).state_dict()
    assert sorted({name.partition(".")[0] for name in state}, key=int) == names


def test_batch_norm_is_yes_or_no(tmp_path, entry):
    with pytest.raises(Exception, match="batch_norm must be true or false, got 'on'"):
        run(entry, order({"batch_norm": "on"}), tmp_path)
