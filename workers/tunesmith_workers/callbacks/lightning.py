"""Lightning: `Trainer(callbacks=[TunesmithCallback(trial)], max_epochs=trial.epochs)`.

Snapshots are taken between two epochs, where nothing is half done: a resumed training equals one that was
never interrupted, to the bit where Lightning itself computes the same twice. They go through the trial's
own format and not through `Trainer.save_checkpoint`, which pickles; so `on_save_checkpoint` hooks are not
asked, and a data loader's own state is not kept.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tunesmith_workers.callbacks.telling import Teller, check_epochs
from tunesmith_workers.loop import Stateful, Trial

try:
    from lightning.pytorch import Callback, LightningModule, Trainer
except ImportError as e:
    raise ImportError(f"{e}; this callback needs Lightning: pip install 'lightning>=2.6'") from e


class TunesmithCallback(Callback):
    """Reports each epoch's metrics, stops when the trial should, keeps snapshots and goes on from one.

    What `self.log` was given in training and validation is reported, `val_loss` as `val/loss`.

    Args:
        names: other names for metrics, such as {"valid_acc": "val/accuracy"}.
    Raises (from `fit`): ValueError if `max_epochs` is not the trial's, or the objective was not logged.
    """

    def __init__(self, trial: Trial, names: Mapping[str, str] | None = None) -> None:
        self._trial, self._teller = trial, Teller(trial, names)

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if stage == "fit":
            check_epochs(self._trial, trainer.max_epochs, "max_epochs")

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._trial.restore(model=pl_module, optimizer=trainer.optimizers[0], **self._more(trainer))

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        stop = self._teller.tell(trainer.current_epoch + 1, trainer.callback_metrics)
        trainer.should_stop = trainer.should_stop or stop

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """The one before has ended only now: schedulers that wait for a metric step after its hooks."""
        if trainer.current_epoch > 0:
            self._keep(trainer, pl_module)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._keep(trainer, pl_module)

    def _keep(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._teller.snapshot_is_due:
            self._trial.snapshot(model=pl_module, optimizer=trainer.optimizers[0], **self._more(trainer))

    def _more(self, trainer: Trainer) -> dict[str, Stateful]:
        """All that goes on beside model and first optimizer, by name."""
        more = {f"optimizer_{i}": one for i, one in enumerate(trainer.optimizers[1:], 1)}
        more |= {f"scheduler_{i}": one.scheduler for i, one in enumerate(trainer.lr_scheduler_configs)}
        others = {c.state_key: c for c in trainer.callbacks if c is not self}
        return more | {
            "loops": _Counters(trainer.fit_loop),
            "precision": trainer.precision_plugin,
            "callbacks": _Callbacks(others, restored=self._trial.continues),
        }


class _Counters:
    """The counters of Lightning's loops, as of the end of an epoch."""

    def __init__(self, fit_loop: Any) -> None:
        self._fit_loop = fit_loop

    def state_dict(self) -> dict[str, Any]:
        state: dict[str, Any] = self._fit_loop.state_dict()
        del state["state_dict"]  # the data loader's own
        for counts in (state["epoch_progress"]["total"], state["epoch_progress"]["current"]):
            counts["ready"] = counts["completed"]  # the next may have begun, but only just
        return state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The loops believe then that they stopped halfway, and would go on from there: they did not."""
        self._fit_loop.load_state_dict(state)
        self._fit_loop.epoch_loop.restarting = False
        self._fit_loop.on_iteration_done()


class _Callbacks:
    """What other callbacks remember, such as how long early stopping has waited: of the trial itself, for one
    that starts from another's snapshot has waited for nothing yet."""

    def __init__(self, callbacks: Mapping[str, Callback], *, restored: bool) -> None:
        self._callbacks, self._restored = callbacks, restored

    def state_dict(self) -> dict[str, Any]:
        return {key: state for key, one in self._callbacks.items() if (state := one.state_dict())}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        for key, one in state.items():
            if self._restored and key in self._callbacks:
                self._callbacks[key].load_state_dict(one)
