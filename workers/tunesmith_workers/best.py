"""Early stopping's other half: going back to the weights of the best point."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn


class BestWeights:
    """A copy of a model's weights and buffers, on its device, as they were at the best point so far.

    Attributes:
        step: of that point; None: none was kept.
    """

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self.step: int | None = None
        self._weights: dict[str, Tensor] = {}

    @torch.no_grad()
    def keep(self, step: int) -> None:
        """The newest point, at `step`, is the best."""
        if self.step is None:
            self._weights = {name: t.clone() for name, t in self._model.state_dict().items()}
        else:
            for name, tensor in self._model.state_dict().items():
                self._weights[name].copy_(tensor)
        self.step = step

    def put_back(self) -> None:
        """Give the model what was kept, and keep it no longer: from here on it is the model's own."""
        self._model.load_state_dict(self._weights)
        self.step, self._weights = None, {}

    def save(self) -> dict[str, Any] | None:
        """For a snapshot; None where nothing is kept."""
        return None if self.step is None else {"step": self.step, "model": self._weights}

    def restore(self, saved: Mapping[str, Any] | None) -> None:
        if saved is not None:
            self.step, self._weights = int(saved["step"]), dict(saved["model"])
