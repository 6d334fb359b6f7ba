"""Keras on torch: `model.fit(..., epochs=trial.epochs, callbacks=[..., TunesmithCallback(trial)])`.

Put it last: a snapshot has what the callbacks before it made of the epoch, such as a reduced rate.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from tunesmith_workers.callbacks.telling import Teller, check_epochs
from tunesmith_workers.loop import Trial

try:
    import keras
except ImportError as e:
    raise ImportError(f"{e}; this callback needs Keras: pip install 'keras>=3.12'") from e

if keras.backend.backend() != "torch":
    raise ImportError(
        f"Keras computes with {keras.backend.backend()} here, Tunesmith's snapshots hold torch's tensors: "
        "set KERAS_BACKEND=torch before keras is imported"
    )


class TunesmithCallback(keras.callbacks.Callback):
    """Reports each epoch's metrics, stops when the trial should, keeps snapshots and goes on from one.

    `val_loss` is reported as `val/loss`, `loss` as `train/loss`.

    Args:
        names: other names for metrics, such as {"val_sparse_categorical_accuracy": "val/accuracy"}.
    Raises (from `fit`): ValueError if `epochs` is not the trial's, or the objective is not among the metrics.
    """

    def __init__(self, trial: Trial, names: Mapping[str, str] | None = None) -> None:
        super().__init__()
        self._trial, self._teller = trial, Teller(trial, names, {"val_": "val/", "": "train/"})

    def on_train_begin(self, logs: object = None) -> None:
        check_epochs(self._trial, self.params["epochs"], "epochs")
        if not self.model.optimizer.built:
            self.model.optimizer.build(self.model.trainable_variables)
        done = self._trial.restore(**self._parts())
        self.model._initial_epoch = done  # as Keras's own BackupAndRestore says where to go on

    def on_epoch_end(self, epoch: int, logs: Mapping[str, Any] | None = None) -> None:
        if self._teller.tell(epoch + 1, logs or {}):
            self.model.stop_training = True
        if self._teller.snapshot_is_due:
            self._trial.snapshot(**self._parts())

    def _parts(self) -> dict[str, _Variables]:
        own = () if self._trial.continues else ("learning_rate",)  # a branch trains at a rate of its own
        return {
            "model": _Variables(self.model.variables),
            "optimizer": _Variables(self.model.optimizer.variables, kept=own),
        }


class _Variables:
    """Variables in order, for their names count up from model to model in one process.

    Args:
        kept: names of those that no snapshot changes.
    """

    def __init__(self, variables: Sequence[Any], kept: Collection[str] = ()) -> None:
        self._variables, self._kept = variables, kept

    def state_dict(self) -> dict[str, Any]:
        return {"variables": [v.value for v in self._variables]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Raises ValueError if there are others, or of other shapes."""
        for variable, value in zip(self._variables, state["variables"], strict=True):
            if variable.name not in self._kept:
                variable.assign(value)
