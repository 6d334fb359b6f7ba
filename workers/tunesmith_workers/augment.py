"""Augmentation: what training does to each batch, on its device; evaluation never sees it.

In this order, each only where its hyperparameter is above 0; n samples, images of shape (n, c, h, w):

* crop: so many pixels of zeros around the image, then a random window of the old size (He et al.
  1512.03385 §4.2).
* flip, flip_vertical: mirrors left and right, top and bottom, with this probability.
* rotation: turns by up to so many degrees either way; bilinear, zeros outside; kornia's.
* noise: adds Gaussian noise of this standard deviation. For any inputs of real numbers.
* cutout: zeros a square whose middle is anywhere; its side is a share of the shorter side (DeVries &
  Taylor 1708.04552).
* erasing: with this probability fills a rectangle with random values (Zhong et al. 1708.04896).
* mixup: mixes each sample with another, λ ~ Beta(mixup, mixup) (Zhang et al. 1710.09412). For any inputs
  of real numbers.
* cutmix: takes 1 - λ of the area from another sample, λ ~ Beta(cutmix, cutmix) (Yun et al. 1905.04899).

Where mixup and cutmix are both on, each sample is mixed by one of them, with equal chances. A zero is
what it is in the inputs: the mean where they are standardised, black where they are not.

Everything is drawn anew for each batch from the seed that its position gives, and from nothing else:
a trial that goes on from a snapshot, or in a warm child, sees what it would have seen. Why few of
these are kornia's own classes: they draw from torch's global generator, RandomMixUpV2 takes λ from a
uniform distribution and RandomCutMixV2's λ is not the paper's, and what is a comparison or a window
of a tensor is here two to twenty times as fast on small batches (tests/benchmarks/augmentation.py).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional
from tunesmith_studies.vocabulary import AUGMENTATIONS

from tunesmith_workers import rng
from tunesmith_workers.optim import Params, real, whole

_ANY_INPUT = frozenset({"noise", "mixup"})  # all others move or replace pixels
_ERASED_AREA, _ERASED_RATIO = (0.02, 0.4), (0.3, 1 / 0.3)  # the paper's s_l, s_h and r_1, r_2
_TRIES = 10  # until an erased rectangle is smaller than its image; more than nine in ten are


@dataclass(frozen=True, slots=True)
class Batch:
    """A batch as the model shall see it.

    Attributes:
        x: inputs; y: targets of the samples, first dimension n.
        partner: index in the batch of the sample that each was mixed with, shape (n,); None: unmixed.
        share: how much of each mixed sample is its own, in [0, 1], shape (n,).
    """

    x: Tensor
    y: Tensor
    partner: Tensor | None = None
    share: Tensor | None = None

    def losses(self, of: Callable[[Tensor], Tensor], rows: slice | None = None) -> Tensor:
        """Loss of each of the samples `rows`, shape (n,), where `of` gives it for plain targets of theirs.

        A mixed sample has λ·loss(y) + (1-λ)·loss(its partner's y), which is the cross-entropy against
        the mixed (soft) target, and needs nothing of losses that only know class numbers.
        """
        if self.partner is None or self.share is None:
            return of(self.y if rows is None else self.y[rows])
        rows = slice(None) if rows is None else rows
        share = self.share[rows]
        return share * of(self.y[rows]) + (1 - share) * of(self.y[self.partner[rows]])


@dataclass(frozen=True, slots=True)
class Augmentation:
    """What `params` switch on, for batches of one training split; see the module.

    Attributes:
        seed: of the trial.
        low, high: least and largest value of each channel in the split, between which `erasing`
            draws (the paper's 0…255); shape (c, 1, 1).
    """

    seed: int
    low: Tensor
    high: Tensor
    crop: int = 0
    flip: float = 0.0
    flip_vertical: float = 0.0
    rotation: float = 0.0
    noise: float = 0.0
    cutout: float = 0.0
    erasing: float = 0.0
    mixup: float = 0.0
    cutmix: float = 0.0

    def __call__(self, x: Tensor, y: Tensor, *at: int) -> Batch:
        """Augment a batch of inputs and targets. `at`: its position, such as epoch, step, micro-batch."""
        draws = np.random.default_rng(rng.derive(self.seed, "augment", *at))
        x = self._moved(x, draws)
        x = self._disturbed(x, draws)
        return self._mixed(x, y, draws)

    def _moved(self, x: Tensor, draws: np.random.Generator) -> Tensor:
        if self.crop:
            x = _windows(x, self.crop, draws)
        if self.flip:
            x = torch.where(_chance(self.flip, x, draws), x.flip(3), x)
        if self.flip_vertical:
            x = torch.where(_chance(self.flip_vertical, x, draws), x.flip(2), x)
        if self.rotation:
            x = _turned(x, draws.uniform(-self.rotation, self.rotation, len(x)))
        return x

    def _disturbed(self, x: Tensor, draws: np.random.Generator) -> Tensor:
        if self.noise:
            normal = torch.randn(x.shape, generator=_on_device(x, draws), device=x.device, dtype=x.dtype)
            x = x + self.noise * normal
        if self.cutout:
            x = x.masked_fill(self._cut_out(x, draws), 0.0)
        if self.erasing:
            values = torch.rand(x.shape, generator=_on_device(x, draws), device=x.device, dtype=x.dtype)
            erased = self._erased(x, draws)
            x = torch.where(erased, torch.lerp(self.low, self.high, values), x)
        return x

    def _cut_out(self, x: Tensor, draws: np.random.Generator) -> Tensor:
        """Pixels of a square around a random one, shape (n, 1, h, w)."""
        n, _, h, w = x.shape
        side = np.full(n, round(self.cutout * min(h, w)))
        return _boxes(x, draws.integers(0, h, n) - side // 2, draws.integers(0, w, n) - side // 2, side, side)

    def _erased(self, x: Tensor, draws: np.random.Generator) -> Tensor:
        """Pixels of a rectangle in some of the images, shape (n, 1, h, w).

        Area and ratio are drawn until the rectangle is smaller than the image either way, then its place.
        """
        n, _, h, w = x.shape
        area = draws.uniform(*_ERASED_AREA, (_TRIES, n)) * h * w
        ratio = draws.uniform(*_ERASED_RATIO, (_TRIES, n))
        heights, widths = np.rint(np.sqrt(area * ratio)), np.rint(np.sqrt(area / ratio))
        fits = (heights < h) & (widths < w)
        first = fits.argmax(0), np.arange(n)
        is_erased = (draws.random(n) < self.erasing) & fits[first]
        height, width = (np.where(is_erased, size[first], 0).astype(np.int64) for size in (heights, widths))
        return _boxes(x, draws.integers(0, h - height + 1), draws.integers(0, w - width + 1), height, width)

    def _mixed(self, x: Tensor, y: Tensor, draws: np.random.Generator) -> Batch:
        if not (self.mixup or self.cutmix):
            return Batch(x, y)
        n = len(x)
        partner = torch.from_numpy(draws.permutation(n)).to(x.device)
        own = torch.ones((n, *[1] * (x.dim() - 1)), dtype=x.dtype, device=x.device)  # share of each element
        if self.mixup:
            own = _spread(draws.beta(self.mixup, self.mixup, n), x)
        if self.cutmix:
            kept = (~self._taken(x, draws)).to(x.dtype)
            own = torch.where(_chance(0.5 if self.mixup else 1.0, x, draws), kept, own)
        return Batch(torch.lerp(x[partner], x, own), y, partner, own.view(n, -1).mean(1))

    def _taken(self, x: Tensor, draws: np.random.Generator) -> Tensor:
        """Pixels that come from the partner: 1 - λ of the area around a random one, cut at the edges."""
        n, _, h, w = x.shape
        side = np.sqrt(1 - draws.beta(self.cutmix, self.cutmix, n))
        height, width = (h * side).astype(np.int64), (w * side).astype(np.int64)
        return _boxes(
            x, draws.integers(0, h, n) - height // 2, draws.integers(0, w, n) - width // 2, height, width
        )


def make_augmentation(params: Params, inputs: Tensor, seed: int) -> Augmentation | None:
    """What `params` switch on for a training split's inputs, shape (n, …); None if nothing.

    Raises: ValueError on a value out of bounds, on image words where inputs are no images of shape
        (n, c, h, w), and where inputs are no real numbers.
    """
    crop = whole(params, "crop")
    found = {name: real(params, name) for name in AUGMENTATIONS if name != "crop"}
    on = [name for name in AUGMENTATIONS if (crop if name == "crop" else found[name])]
    if not on:
        return None
    shape = list(inputs.shape[1:])
    if not inputs.is_floating_point():
        raise ValueError(
            f"no {' or '.join(on)} without inputs of real numbers; this task's are {inputs.dtype}"
        )
    for_images = [name for name in on if name not in _ANY_INPUT]
    if for_images and len(shape) != 3:
        raise ValueError(
            f"no {' or '.join(for_images)} without images of shape (channels, height, width); this task's "
            f"inputs have shape {shape}: leave it out, or use mixup or noise"
        )
    if crop and crop >= min(shape[1:]):
        raise ValueError(f"crop pads by less than the image's side, got {crop} for {shape[1]}×{shape[2]}")
    low, high = _range(inputs)
    return Augmentation(seed, low, high, crop=crop, **found)


def _range(inputs: Tensor) -> tuple[Tensor, Tensor]:
    if inputs.dim() != 4:
        return inputs.new_zeros(()), inputs.new_zeros(())
    low, high = torch.aminmax(inputs.transpose(0, 1).flatten(1), dim=1)
    return low.view(-1, 1, 1), high.view(-1, 1, 1)


def _windows(x: Tensor, padding: int, draws: np.random.Generator) -> Tensor:
    n, _, h, w = x.shape
    windows = functional.pad(x, [padding] * 4).unfold(2, h, 1).unfold(3, w, 1)  # (n, c, places, places, h, w)
    top, left = torch.from_numpy(draws.integers(0, 2 * padding + 1, (2, n))).to(x.device)
    return windows[torch.arange(n, device=x.device), :, top, left]


def _turned(x: Tensor, degrees: NDArray[np.float64]) -> Tensor:
    from kornia.geometry.transform import rotate  # noqa: PLC0415 - half a second, for those who turn

    turned: Tensor = rotate(x, torch.from_numpy(degrees).to(x))
    return turned


def _boxes(
    x: Tensor, top: NDArray[np.int64], left: NDArray[np.int64],
    height: NDArray[np.int64], width: NDArray[np.int64],
) -> Tensor:  # fmt: skip
    """Which pixels of each image lie in its box, shape (n, 1, h, w); boxes may reach past the edges."""
    edges = torch.from_numpy(np.stack([top, top + height, left, left + width])).to(x.device)
    first, last, leftmost, rightmost = edges.view(4, -1, 1)
    rows = torch.arange(x.shape[2], device=x.device)
    columns = torch.arange(x.shape[3], device=x.device)
    is_row, is_column = (rows >= first) & (rows < last), (columns >= leftmost) & (columns < rightmost)
    inside: Tensor = (is_row[:, :, None] & is_column[:, None, :])[:, None]
    return inside


def _chance(probability: float, x: Tensor, draws: np.random.Generator) -> Tensor:
    """True with this probability for each sample, shape (n, 1, …)."""
    hit = torch.from_numpy(draws.random(len(x)) < probability).to(x.device)
    return hit.view(-1, *[1] * (x.dim() - 1))


def _spread(values: NDArray[np.float64], x: Tensor) -> Tensor:
    """One number a sample, shape (n, 1, …), as x has them."""
    return torch.from_numpy(values).to(x).view(-1, *[1] * (x.dim() - 1))


def _on_device(x: Tensor, draws: np.random.Generator) -> torch.Generator:
    """For what is drawn for each element: on the device, from a seed out of `draws`."""
    return torch.Generator(x.device).manual_seed(int(draws.integers(2**63)))
