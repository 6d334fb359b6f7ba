"""What preprocessing makes of splits: fitted on the training split alone, applied to all."""

import pytest
import torch
from training import CPU, blobs, make_work, points, run
from tunesmith_workers.data import Split
from tunesmith_workers.preparation import prepared
from tunesmith_workers.preprocess import SHRINKAGE, WHITENED_AT_MOST, Preprocessing, fit


def fitted(how: str, inputs: torch.Tensor) -> Preprocessing:
    found = fit({"preprocessing": how}, inputs)
    assert found is not None
    return found


def correlated(n: int = 2000, d: int = 6) -> torch.Tensor:
    generator = torch.Generator().manual_seed(3)
    mix = torch.randn(d, d, generator=generator) * torch.tensor([1e-2, 0.1, 1.0, 3.0, 10.0, 30.0])
    return torch.randn(n, d, generator=generator) @ mix.T + 5


def test_as_given_is_the_task_s_own_tensor():
    assert fit({}, torch.zeros(3, 2)) is None
    entry = blobs()
    splits = prepared(entry.task, make_work(), seed=1, device=CPU)
    assert splits.train.x is entry.task.splits.train.x


def test_standardised_features_have_mean_0_and_deviation_1_and_constant_ones_are_0():
    x = correlated()
    x[:, 2] = 0.1
    made = fitted("standardise", x)(x)
    others = [0, 1, 3, 4, 5]
    assert torch.allclose(made[:, others].mean(0), torch.zeros(5), atol=1e-4)
    assert torch.allclose(made[:, others].std(0, correction=0), torch.ones(5), rtol=1e-4)
    assert torch.equal(made[:, 2], torch.zeros(len(x)))
    assert made.dtype == x.dtype


def test_standardise_takes_each_pixel_and_per_channel_each_channel():
    images = torch.rand(500, 2, 4, 3) * torch.tensor([1.0, 50.0]).view(2, 1, 1) + torch.arange(3)
    by_pixel, by_channel = fitted("standardise", images), fitted("per_channel", images)
    assert by_pixel.mean.shape == (2, 4, 3)
    assert by_channel.mean.shape == (2, 1, 1)
    assert torch.allclose(by_pixel(images).mean(0), torch.zeros(2, 4, 3), atol=1e-4)
    made = by_channel(images)
    assert torch.allclose(made.mean((0, 2, 3)), torch.zeros(2), atol=1e-4)
    assert torch.allclose(made.std((0, 2, 3), correction=0), torch.ones(2), rtol=1e-4)
    assert made[:, :, :, 0].mean() < -0.5  # a column that is darker stays darker


def test_whitened_features_are_uncorrelated_and_nearest_to_the_given_ones():
    x = correlated().double()
    made = fitted("whiten", x)
    covariance = made(x).T @ made(x) / len(x)
    variances = torch.linalg.eigvalsh((x - x.mean(0)).T @ (x - x.mean(0)) / len(x))
    shrunk = variances / (variances + SHRINKAGE * variances.mean())
    assert torch.allclose(torch.linalg.eigvalsh(covariance), shrunk.sort().values, atol=1e-8)
    assert torch.allclose(made.scale, made.scale.T)  # ZCA: symmetric, so no rotation besides
    easy = torch.randn(5000, 4, dtype=torch.float64)
    whitened = fitted("whiten", easy)(easy)
    expected = torch.eye(4, dtype=torch.float64) / (1 + SHRINKAGE)
    assert torch.allclose(whitened.T @ whitened / 5000, expected, atol=0.02)


def test_whitening_leaves_constant_and_repeated_features_finite_and_small():
    x = torch.rand(40, 100)
    x[:, 1], x[:, 3] = x[:, 0], 7.0
    made = fitted("whiten", x)(x)
    assert made.isfinite().all()
    assert made[:, 3].abs().max() < 1e-4
    assert made.abs().max() < 10


@pytest.mark.parametrize("how", ["standardise", "whiten"])
def test_only_the_training_samples_of_the_trial_are_learnt_from(how):
    """A fold, a fraction, and other splits full of what would spoil every mean."""
    entry = blobs(test=Split(torch.full((3, 4), 1e9), torch.zeros(3, dtype=torch.int64)))
    work = make_work(params={"preprocessing": how}, fold=(1, 3), data_fraction=0.5)
    plain = prepared(entry.task, make_work(fold=(1, 3), data_fraction=0.5), seed=7, device=CPU)
    made = prepared(entry.task, work, seed=7, device=CPU, with_test=True)
    by_hand = fitted(how, plain.train.x)
    assert torch.equal(made.train.x, by_hand(plain.train.x))
    assert torch.equal(made.val.x, by_hand(plain.val.x))
    assert torch.equal(made.test.x, by_hand(entry.task.splits.test.x))
    assert torch.equal(made.val.y, plain.val.y)


def test_inputs_of_very_different_size_train_only_once_they_are_standardised(tmp_path):
    sizes = torch.tensor([1e4, 1e-4, 1.0, 1.0])
    plain = blobs().task.splits
    splits = type(plain)(*(Split(s.x * sizes, s.y) for s in (plain.train, plain.val)))

    def last(how):
        work = make_work(params={"lr": 0.05, "batch_size": 8, "depth": 0, "preprocessing": how}, epochs=5)
        return points(run(blobs(splits=splits), work, tmp_path))[-1].metrics["train/loss"]

    assert last("standardise") < 1.1
    assert not last("as_given") < 1.1


@pytest.mark.parametrize(
    ("how", "inputs", "message"),
    [
        ("bleach", torch.rand(9, 4), "preprocessing must be one of as_given, standardise, .*, got 'bleach'"),
        ("per_channel", torch.rand(9, 4), r"per_channel needs images .* shape \[4\]: take standardise"),
        ("whiten", torch.rand(9, 1, 8, 8), r"whiten needs flat .* shape \[1, 8, 8\]: take per_channel"),
        ("whiten", torch.rand(2, WHITENED_AT_MOST + 1), r"at most 1024 features; .*\[1025\]: take standard"),
        (
            "standardise",
            torch.zeros(9, 4).long(),
            "needs inputs of real numbers; .* torch.int64",
        ),
        (
            "whiten",
            torch.tensor([[1.0, torch.nan], [torch.inf, 0.0]]),
            "2 of the .* inputs are not finite",
        ),
    ],
)
def test_what_cannot_be_done_is_refused_in_words(how, inputs, message):
    with pytest.raises(ValueError, match=message):
        fit({"preprocessing": how}, inputs)
