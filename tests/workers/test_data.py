import numpy as np
import pytest
import torch
from tunesmith_workers.data import (
    Split,
    Splits,
    cut,
    epoch_order,
    folded,
    fraction_of,
    in_order,
    steps_per_epoch,
    stratified,
)


def classes(counts: dict[int, int]) -> Split:
    y = torch.cat([torch.full((n,), label) for label, n in counts.items()])
    return Split(torch.arange(len(y), dtype=torch.float32).unsqueeze(1), y)


def test_the_order_of_an_epoch_depends_on_seed_and_epoch_alone():
    first = epoch_order(50, seed=3, epoch=4)
    torch.randn(10)
    torch.manual_seed(99)
    assert torch.equal(epoch_order(50, seed=3, epoch=4), first)
    assert not torch.equal(epoch_order(50, seed=3, epoch=5), first)
    assert not torch.equal(epoch_order(50, seed=4, epoch=4), first)
    assert sorted(first.tolist()) == list(range(50))


def test_drawing_an_order_does_not_move_the_global_generator():
    torch.manual_seed(0)
    expected = torch.rand(1)
    torch.manual_seed(0)
    epoch_order(50, seed=3, epoch=4)
    assert torch.equal(torch.rand(1), expected)


@pytest.mark.parametrize(
    ("samples", "size", "sizes"),
    [(10, 4, [4, 4, 2]), (9, 4, [4, 5]), (3, 4, [3]), (1, 4, [1]), (3, 1, [1, 1, 1]), (8, 4, [4, 4])],
)
def test_a_last_batch_of_one_sample_joins_its_neighbour(samples, size, sizes):
    pieces = cut(torch.arange(samples), size)
    assert [len(p) for p in pieces] == sizes
    assert torch.cat(pieces).tolist() == list(range(samples))
    assert steps_per_epoch(samples, size) == len(sizes)


def test_a_stratified_cut_keeps_each_class_s_share_and_every_row_once():
    y = np.repeat([0, 1, 2], [100, 50, 1])
    parts = stratified(y, {"val": 0.2, "test": 0.2}, seed=0)
    assert np.bincount(y[parts["val"]], minlength=3).tolist() == [20, 10, 0]
    assert np.bincount(y[parts["test"]], minlength=3).tolist() == [20, 10, 0]
    assert np.bincount(y[parts["train"]], minlength=3).tolist() == [60, 30, 1]
    assert sorted(np.concatenate(list(parts.values())).tolist()) == list(range(151))
    again = stratified(y, {"val": 0.2, "test": 0.2}, seed=0)
    assert all(np.array_equal(parts[k], again[k]) for k in parts)
    assert not np.array_equal(parts["val"], stratified(y, {"val": 0.2, "test": 0.2}, seed=1)["val"])


def test_a_fraction_keeps_each_class_s_share_and_grows_by_adding():
    split = classes({0: 100, 1: 40, 2: 2})
    small, large = fraction_of(split, 0.1, seed=5), fraction_of(split, 0.5, seed=5)
    assert torch.bincount(small.y).tolist() == [10, 4, 1]
    assert torch.bincount(large.y).tolist() == [50, 20, 1]
    assert set(small.x.flatten().tolist()) < set(large.x.flatten().tolist())
    assert set(fraction_of(split, 0.1, seed=6).x.flatten().tolist()) != set(small.x.flatten().tolist())


def test_the_whole_fraction_is_the_split_itself():
    split = classes({0: 5})
    assert fraction_of(split, 1.0, seed=0) is split


@pytest.mark.parametrize("fraction", [0.0, -0.5, 1.5])
def test_a_fraction_outside_its_range_is_refused(fraction):
    with pytest.raises(ValueError, match=r"data_fraction must be in \(0, 1\]"):
        fraction_of(classes({0: 5}), fraction, seed=0)


def test_evaluation_sees_every_sample_once_in_order():
    split = classes({0: 5, 1: 6})
    pieces = list(in_order(split, 4))
    assert torch.equal(torch.cat([p.x for p in pieces]), split.x)
    assert torch.equal(torch.cat([p.y for p in pieces]), split.y)


def test_a_split_without_samples_is_refused():
    with pytest.raises(ValueError, match="at least one, got 0, 0"):
        Split(torch.empty(0, 3), torch.empty(0))


def labelled(samples, classes=3, first=0):
    """Samples that are told apart by their number."""
    numbers = torch.arange(first, first + samples)
    return Split(numbers.unsqueeze(1).float(), numbers % classes)


def test_folds_cut_training_and_validation_samples_into_parts_of_equal_size_and_classes():
    splits = Splits(labelled(31), labelled(12, first=31), labelled(3, first=90), seed=4)
    found = [folded(splits, i, 4) for i in range(4)]
    seen = torch.cat([fold.val.x for fold in found]).flatten()
    assert sorted(seen.tolist()) == list(range(43))
    assert sorted(len(fold.val) for fold in found) == [10, 11, 11, 11]
    for fold in found:
        assert {*fold.train.x.flatten().tolist()} == {*range(43)} - {*fold.val.x.flatten().tolist()}
        assert torch.equal(fold.val.y, fold.val.x.flatten().long() % 3)
        assert fold.test is splits.test
    counts = torch.stack([torch.bincount(fold.val.y) for fold in found])
    assert (counts.amax(0) - counts.amin(0)).max() <= 1


def test_folds_depend_on_the_splits_seed_alone():
    one, other = (Splits(labelled(30), labelled(10, first=30), seed=seed) for seed in (0, 1))
    assert torch.equal(folded(one, 2, 5).val.x, folded(one, 2, 5).val.x)
    assert not torch.equal(folded(one, 2, 5).val.x, folded(other, 2, 5).val.x)


@pytest.mark.parametrize(
    ("splits", "fold", "message"),
    [
        (Splits(labelled(9), labelled(3)), (3, 3), "fold counts from 0 to 2 of at least 2, got 3 of 3"),
        (Splits(labelled(9), labelled(3)), (0, 1), "at least 2, got 0 of 1"),
        (Splits(labelled(2), labelled(1)), (0, 5), "5 folds need at least as many samples, there are 3"),
        (
            Splits(labelled(9), Split(torch.zeros(3, 2), torch.zeros(3, dtype=torch.int64))),
            (0, 3),
            r"whose x differ: torch.float32 \[1\] and torch.float32 \[2\] a sample",
        ),
    ],
)
def test_folds_that_cannot_be_say_why(splits, fold, message):
    with pytest.raises(ValueError, match=message):
        folded(splits, *fold)
