"""Preprocessing: what is done once to the inputs of every split, fitted on a trial's training split alone.

Alone means: after folds and fractions are cut, so nothing of a validation sample reaches training.

* as_given: what the task gives.
* standardise: each feature less its mean, over its standard deviation (LeCun et al. 1998, §4.3).
* per_channel: the same for each channel of an image.
* whiten: uncorrelated features of variance near 1 that are as close to the given ones as such can be: ZCA,
  not PCA, whose features are others (Kessy et al. 1512.00809).

A feature that does not vary in the training split becomes 0. Whitening adds `SHRINKAGE` of the mean
variance to each direction's, so that directions in which the split hardly varies do not become noise.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from tunesmith_workers.data import Split
from tunesmith_workers.optim import Params, word

WHITENED_AT_MOST = 1024
"""Features that `whiten` takes: it decomposes a matrix of so many rows and columns."""
SHRINKAGE = 0.1
"""Measured on digits, satellite and spam (docs/measured.md): less is worse, most of all on satellite."""


@dataclass(frozen=True, slots=True)
class Preprocessing:
    """(x - mean) · scale, or (x - mean) @ rotation where inputs are whitened.

    Attributes:
        how: the word of the vocabulary.
        mean: as the inputs of one sample, or (c, 1, 1).
        scale: likewise; or shape (d, d) for `whiten`.
    """

    how: str
    mean: Tensor
    scale: Tensor

    def __call__(self, x: Tensor) -> Tensor:
        """Inputs of shape (n, …), in the precision that they have."""
        mean, scale = self.mean.to(x), self.scale.to(x)
        return (x - mean) @ scale if self.how == "whiten" else (x - mean) * scale

    def of(self, split: Split) -> Split:
        return Split(self(split.x), split.y)


def fit(params: Params, inputs: Tensor) -> Preprocessing | None:
    """What `params` ask for, fitted on a training split's inputs, shape (n, …); None if nothing.

    Raises: ValueError on an unknown word and on inputs that it cannot be done to.
    """
    how = word(params, "preprocessing")
    if how == "as_given":
        return None
    if not inputs.is_floating_point():
        raise ValueError(f"preprocessing {how} needs inputs of real numbers; this task's are {inputs.dtype}")
    if strange := int((~inputs.isfinite()).sum()):
        raise ValueError(
            f"preprocessing {how}: {strange} of the training split's inputs are not finite; mend the data"
        )
    shape = list(inputs.shape[1:])
    if how == "standardise":
        return _scaled(how, inputs, dims=(0,))
    if how == "per_channel":
        if len(shape) != 3:
            raise ValueError(
                f"preprocessing per_channel needs images of shape (channels, height, width); this task's "
                f"inputs have shape {shape}: take standardise"
            )
        return _scaled(how, inputs, dims=(0, 2, 3))
    return _whitened(inputs.double(), shape)


def _scaled(how: str, x: Tensor, dims: tuple[int, ...]) -> Preprocessing:
    spread, mean = torch.std_mean(x, dim=dims, keepdim=True, correction=0)
    does_vary = spread > torch.finfo(x.dtype).eps * mean.abs()  # else it is rounding
    scale = torch.where(does_vary, 1 / spread, 0.0)
    return Preprocessing(how, mean[0], scale[0])


def _whitened(x: Tensor, shape: list[int]) -> Preprocessing:
    """W = U (Λ + ε)^-½ Uᵀ, where U Λ Uᵀ is the covariance of the inputs."""
    if len(shape) != 1 or shape[0] > WHITENED_AT_MOST:
        raise ValueError(
            f"preprocessing whiten needs flat inputs of at most {WHITENED_AT_MOST} features; this task's "
            f"have shape {shape}: take {'per_channel' if len(shape) == 3 else 'standardise'}"
        )
    mean = x.mean(0)
    covariance = (x - mean).T @ (x - mean) / len(x)
    variances, directions = torch.linalg.eigh(covariance)
    epsilon = SHRINKAGE * variances.mean()
    scale = torch.where(variances + epsilon > 0, (variances.clamp(min=0) + epsilon).rsqrt(), 0.0)
    return Preprocessing("whiten", mean, directions * scale @ directions.T)
