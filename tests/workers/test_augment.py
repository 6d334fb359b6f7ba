"""Augmentation against its definitions, on small tensors."""

import math

import numpy as np
import pytest
import torch
from torch.nn import functional
from tunesmith_studies.vocabulary import AUGMENTATIONS
from tunesmith_workers.augment import Augmentation, Batch, make_augmentation

SEED = 11
LABELS = torch.arange(600) % 10
ALL = {
    "crop": 2, "flip": 0.5, "flip_vertical": 0.5, "rotation": 20.0, "noise": 0.1, "cutout": 0.3,
    "erasing": 0.5, "mixup": 0.4, "cutmix": 1.0,
}  # fmt: skip


def images(n: int = 600, c: int = 2, h: int = 8, w: int = 10) -> torch.Tensor:
    """No two pixels are equal, and none is 0."""
    return (torch.arange(n * c * h * w, dtype=torch.float64) + 1).view(n, c, h, w)


def made(inputs: torch.Tensor, **params: float) -> Augmentation:
    found = make_augmentation(params, inputs, SEED)
    assert found is not None
    return found


def augmented(x: torch.Tensor, **params: float) -> Batch:
    return made(x, **params)(x, LABELS[: len(x)], 0, 0, 0)


def boxes(changed: torch.Tensor) -> list[tuple[int, int, int, int]]:
    """Top, left, height and width of what is True in each image (n, h, w), which must be a rectangle."""
    found = []
    for image in changed:
        rows, columns = image.any(1).nonzero().flatten(), image.any(0).nonzero().flatten()
        if len(rows) == 0:
            found.append((0, 0, 0, 0))
            continue
        top, left = int(rows[0]), int(columns[0])
        height, width = int(rows[-1]) - top + 1, int(columns[-1]) - left + 1
        assert image[top : top + height, left : left + width].all()
        found.append((top, left, height, width))
    return found


# --- one by one -----------------------------------------------------------------------------------


def test_a_crop_is_a_window_of_the_padded_image_and_every_window_comes_up():
    x = images()
    padded = functional.pad(x, [2, 2, 2, 2])
    seen = set()
    for given, image in zip(augmented(x, crop=2).x, padded, strict=True):
        places = [
            (i, j) for i in range(5) for j in range(5) if torch.equal(image[:, i : i + 8, j : j + 10], given)
        ]
        assert len(places) == 1
        seen.update(places)
    assert len(seen) == 25


@pytest.mark.parametrize(("name", "axis"), [("flip", 3), ("flip_vertical", 2)])
def test_a_flip_mirrors_its_share_of_the_images(name, axis):
    x = images()
    given = augmented(x, **{name: 0.3}).x
    is_flipped = (given == x.flip(axis)).flatten(1).all(1)
    assert torch.equal(given[~is_flipped], x[~is_flipped])
    assert is_flipped.double().mean().item() == pytest.approx(0.3, abs=0.06)


def test_a_certain_flip_flips_all():
    x = images(5)
    assert torch.equal(augmented(x, flip=1.0).x, x.flip(3))


def test_a_rotation_turns_each_image_by_an_angle_of_its_own_up_to_the_bound():
    """A point right of the middle moves along its circle; the angle can be read from where it goes."""
    x = torch.zeros(200, 1, 41, 41, dtype=torch.float64)
    x[:, :, 19:22, 34:37] = 1.0
    given = augmented(x, rotation=30.0).x[:, 0]
    at = torch.arange(41, dtype=torch.float64) - 20
    mass = given.sum((1, 2))
    right, down = (given.sum(1) * at).sum(1) / mass, (given.sum(2) * at).sum(1) / mass
    angles = torch.rad2deg(torch.atan2(-down, right))
    assert torch.allclose(torch.hypot(right, down), torch.tensor(15.0, dtype=torch.float64), atol=0.1)
    assert angles.abs().max() <= 30.5
    assert angles.max() > 25
    assert angles.min() < -25
    assert angles.std().item() == pytest.approx(60 / math.sqrt(12), rel=0.1)


def test_a_rotation_by_a_right_angle_is_exact_in_a_square():
    from tunesmith_workers.augment import _turned

    x = torch.rand(3, 2, 5, 5, dtype=torch.float64)
    assert torch.allclose(_turned(x, np.full(3, 90.0)), torch.rot90(x, 1, (2, 3)))


def test_noise_is_gaussian_of_its_deviation_and_takes_tables_too():
    x = torch.zeros(500, 40, dtype=torch.float64)
    noise = augmented(x, noise=0.25).x
    assert noise.mean().item() == pytest.approx(0, abs=0.01)
    assert noise.std().item() == pytest.approx(0.25, rel=0.02)
    assert (noise.abs() < 0.5).double().mean().item() == pytest.approx(0.954, abs=0.005)


def test_cutout_zeros_a_square_whose_middle_is_anywhere():
    x = images()
    given = augmented(x, cutout=0.5).x  # of a shorter side of 8
    gone = given == 0
    assert torch.equal(gone[:, 0], gone[:, 1])
    assert torch.equal(given[~gone], x[~gone])
    found = boxes(gone[:, 0])
    assert max(h for _, _, h, _ in found) == 4
    assert max(w for _, _, _, w in found) == 4
    middles = {(t, left) for t, left, h, w in found if h == w == 4}
    assert len(middles) == 5 * 7  # whole squares; all places are seen
    assert any(t == 0 and h < 4 for t, _, h, _ in found)  # half outside


def test_erasing_fills_a_rectangle_as_its_paper_says():
    x = images(600, 2, 28, 28)
    given = augmented(x, erasing=0.6).x
    changed = (given != x).any(1)
    found = [box for box in boxes(changed) if box[2]]
    assert len(found) / 600 == pytest.approx(0.6, abs=0.06)
    for _, _, h, w in found:
        assert (h - 0.5) * (w - 0.5) <= 0.4 * 28 * 28
        assert (h + 0.5) * (w + 0.5) >= 0.02 * 28 * 28
        assert h < 28
        assert w < 28
        assert (h + 0.5) / (w - 0.5) > 0.3
        assert (h - 0.5) / (w + 0.5) < 1 / 0.3
    areas = [h * w / 28**2 for _, _, h, w in found]
    assert np.mean(areas) == pytest.approx(0.21, abs=0.02)  # uniform from 0.02 to 0.4
    filled = given[changed[:, None].expand_as(x)].view(-1)
    low, high = x.min().item(), x.max().item()
    assert low < filled.min().item()
    assert filled.max().item() < high
    assert filled.mean().item() == pytest.approx((low + high) / 2, rel=0.02)


def test_erasing_draws_between_the_least_and_the_largest_value_of_each_channel_in_the_split():
    x = torch.rand(400, 2, 8, 8)
    x[:, 1] = x[:, 1] * 10 + 100
    given = made(x, erasing=1.0)(torch.zeros(300, 2, 8, 8), LABELS[:300], 0).x
    erased = given[:, 1] != 0
    assert given[:, 0].min() >= 0
    assert given[:, 0].max() <= 1
    assert given[:, 1][erased].min() >= 100
    assert given[:, 1].max() <= 110
    assert given[:, 1].max() > 109


# --- mixes ----------------------------------------------------------------------------------------


def test_mixup_mixes_inputs_by_the_share_that_it_gives():
    x = images()
    batch = augmented(x, mixup=0.5)
    share = batch.share.view(-1, 1, 1, 1)
    assert torch.allclose(batch.x, share * x + (1 - share) * x[batch.partner])
    assert sorted(batch.partner.tolist()) == list(range(600))
    assert torch.equal(batch.y, LABELS)


@pytest.mark.parametrize("alpha", [0.2, 1.0, 4.0])
def test_a_share_is_beta_distributed(alpha):
    shares = torch.cat([made(images(2), mixup=alpha)(images(), LABELS, i).share for i in range(10)]).numpy()
    from scipy import stats

    assert stats.kstest(shares, stats.beta(alpha, alpha).cdf).pvalue > 0.01


def loss_of(batch: Batch, outputs: torch.Tensor) -> torch.Tensor:
    return batch.losses(lambda y: functional.cross_entropy(outputs, y, reduction="none"))


def test_the_loss_of_mixed_targets_is_the_cross_entropy_against_soft_targets():
    x, outputs = torch.rand(32, 6), torch.randn(32, 10, dtype=torch.float64)
    batch = augmented(x, mixup=0.5)
    y = LABELS[:32]
    one_hot = functional.one_hot(y, 10).double()
    share = batch.share.double()[:, None]
    soft = share * one_hot + (1 - share) * one_hot[batch.partner]
    for smoothing in (0.0, 0.1):

        def loss(targets, smoothing=smoothing):
            return functional.cross_entropy(outputs, targets, reduction="none", label_smoothing=smoothing)

        expected = loss(soft)
        assert torch.allclose(batch.losses(loss), expected)
        by_hand = batch.share * loss(y) + (1 - batch.share) * loss(y[batch.partner])
        assert torch.equal(batch.losses(loss), by_hand)

    def of_some(targets):
        return functional.cross_entropy(outputs[8:20], targets, reduction="none")

    assert torch.equal(batch.losses(of_some, slice(8, 20)), loss_of(batch, outputs)[8:20])


def test_label_smoothing_is_its_definition():
    """Szegedy et al. 1512.00567 §7: (1 - ε) of the target and ε spread evenly over all classes."""
    from tunesmith_workers.tasks.registry import cross_entropy

    outputs, y = torch.randn(16, 10, dtype=torch.float64), LABELS[:16]
    soft = 0.8 * functional.one_hot(y, 10).double() + 0.2 / 10
    by_hand = -(soft * outputs.log_softmax(1)).sum(1)
    assert torch.allclose(cross_entropy(outputs, y, smoothing=0.2), by_hand)


def test_cutmix_takes_a_rectangle_of_the_partner_and_its_share_is_what_is_left():
    x = images()
    batch = augmented(x, cutmix=1.0)
    other = (batch.x == x[batch.partner])[:, 0] & (batch.x != x)[:, 0]
    kept = ~other
    assert torch.equal(batch.x, torch.where(other[:, None], x[batch.partner], x))
    own = batch.partner == torch.arange(600)
    assert torch.allclose(batch.share[~own], kept.double().mean((1, 2))[~own])
    boxes(other)
    assert batch.share.min() < 0.3
    assert batch.share.max() == 1


def test_mixup_and_cutmix_share_the_samples_between_them():
    x = images()
    batch = augmented(x, mixup=1.0, cutmix=1.0)
    from_other = (batch.x == x[batch.partner]).flatten(1)
    is_own = (batch.x == x).flatten(1)
    is_cut = (from_other | is_own).all(1)
    share = batch.share.view(-1, 1, 1, 1)
    mixed = share * x + (1 - share) * x[batch.partner]
    assert torch.allclose(batch.x[~is_cut], mixed[~is_cut])
    assert is_cut.double().mean().item() == pytest.approx(0.5, abs=0.07)


def test_an_unmixed_batch_has_the_loss_of_its_targets():
    x = torch.rand(4, 1, 8, 8)
    batch = augmented(x, flip=1.0)
    assert torch.equal(batch.losses(lambda y: y.double()), LABELS[:4].double())


# --- together -------------------------------------------------------------------------------------


def same(one: Batch, other: Batch) -> bool:
    parts = [(one.x, other.x), (one.partner, other.partner), (one.share, other.share)]
    return all(a is b is None or torch.equal(a, b) for a, b in parts)


def test_all_words_are_known_and_each_draws_by_seed_and_position_alone():
    x = torch.rand(8, 3, 12, 12)
    assert set(ALL) == set(AUGMENTATIONS)
    for params in [ALL, *({name: value} for name, value in ALL.items())]:
        augment = made(x, **params)
        first = augment(x, LABELS[:8], 3, 1, 0)
        state = torch.get_rng_state(), np.random.get_state()[1]
        torch.manual_seed(1)
        np.random.seed(1)
        again = made(x, **params)(x, LABELS[:8], 3, 1, 0)
        assert same(first, again)
        elsewhere = make_augmentation(params, x, SEED + 1)
        assert not same(first, elsewhere(x, LABELS[:8], 3, 1, 0))
        for at in [(4, 1, 0), (3, 2, 0), (3, 1, 1)]:
            assert not same(first, augment(x, LABELS[:8], *at))
        torch.set_rng_state(state[0])


@pytest.mark.parametrize("shape", [(8, 1, 8, 8), (1, 3, 12, 9), (5, 4, 3, 16)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16])
def test_what_comes_out_has_the_shape_and_precision_of_what_went_in(shape, dtype):
    x = torch.rand(shape).to(dtype)
    before = x.clone()
    batch = augmented(x, **ALL)
    assert batch.x.shape == x.shape
    assert batch.x.dtype == dtype
    assert batch.share.shape == (len(x),)
    assert batch.x.isfinite().all()
    assert torch.equal(x, before)


def test_the_global_generators_are_left_alone():
    x = torch.rand(8, 3, 12, 12)
    before, numpys = torch.get_rng_state(), np.random.get_state()[1].copy()
    augmented(x, **ALL)
    assert torch.equal(torch.get_rng_state(), before)
    assert np.array_equal(np.random.get_state()[1], numpys)


def test_nothing_switched_on_is_nothing():
    assert make_augmentation({}, torch.rand(4, 3), SEED) is None
    assert make_augmentation(dict.fromkeys(AUGMENTATIONS, 0), torch.rand(4, 3), SEED) is None


@pytest.mark.parametrize(
    ("params", "inputs", "message"),
    [
        ({"flip": 0.5, "mixup": 1.0}, torch.rand(9, 4), r"no flip without images .* inputs have shape \[4\]"),
        ({"mixup": 1.0}, torch.zeros(9, 4).long(), "no mixup without inputs of real .* torch.int64"),
        ({"crop": 8}, torch.rand(9, 1, 8, 12), "crop pads by less than the image's side, got 8 for 8×12"),
        ({"flip": 1.5}, torch.rand(9, 1, 8, 8), "flip must be a number from 0 to 1, got 1.5"),
        ({"crop": 1.5}, torch.rand(9, 1, 8, 8), "crop must be a whole number"),
        ({"rotation": -3}, torch.rand(9, 1, 8, 8), "rotation must be a number from 0 to 180, got -3"),
    ],
)  # fmt: skip
def test_what_cannot_be_done_is_refused_in_words(params, inputs, message):
    with pytest.raises(ValueError, match=message):
        make_augmentation(params, inputs, SEED)
