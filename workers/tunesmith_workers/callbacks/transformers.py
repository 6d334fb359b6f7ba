"""Hugging Face Trainer: `fit(trainer, trial)` in place of `trainer.train()`.

Where training begins is decided before a callback of this Trainer is asked, so a callback alone could not
go on from a snapshot; `fit` adds it and says where to begin. Any Trainer will do, such as those of TRL.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tunesmith_workers.callbacks.telling import Teller, check_epochs
from tunesmith_workers.loop import Trial

try:
    from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments
    from transformers.trainer import TRAINER_STATE_NAME
    from transformers.trainer_utils import IntervalStrategy, TrainOutput
except ImportError as e:
    raise ImportError(
        f"{e}; this callback needs Hugging Face's Trainer: pip install 'transformers[torch]>=5.0'"
    ) from e

PARTS = {"eval_": "val/", "train_": "train/"}
COSTS = ("_runtime", "_per_second", "_preparation_time")  # what evaluating took is no metric of the model


def fit(trainer: Trainer, trial: Trial, *, names: Mapping[str, str] | None = None) -> TrainOutput:
    """Train a trial with a Trainer: each epoch's metrics are reported, it stops when the trial should, keeps
    snapshots, and goes on from one with the same weights, optimizer, schedule and random numbers.

    `eval_loss` is reported as `val/loss`, the last logged `loss` as `train/loss`.

    Args:
        trainer: not trained yet, with `eval_strategy="epoch"` and `num_train_epochs=trial.epochs`.
            With a dictionary of evaluation sets, `eval_easy_loss` is reported as `val/easy_loss`.
        names: other names for metrics, such as {"eval_f1": "val/f1-macro"}.
    Raises: ValueError if the Trainer's arguments are others, or the objective is not among the metrics.
    """
    _check(trainer.args, trial)
    sets = trainer.eval_dataset
    trainer.add_callback(_Callback(trial, names, len(sets) if isinstance(sets, dict) else 1))
    resume = str(_begin(trainer, trial)) if trial.restored else None
    return trainer.train(resume_from_checkpoint=resume)


def _check(args: TrainingArguments, trial: Trial) -> None:
    check_epochs(trial, args.num_train_epochs, "num_train_epochs")
    if args.max_steps > 0:
        raise ValueError(f"max_steps={args.max_steps}: a trial's budget is its epochs, leave that out")
    if args.eval_strategy != IntervalStrategy.EPOCH:
        raise ValueError(
            f'eval_strategy="{args.eval_strategy.value}": a trial reports each epoch, so say "epoch"'
        )


def _begin(trainer: Trainer, trial: Trial) -> Path:
    """A checkpoint that says where to begin, and has no weights: those of the trial come when optimizer and
    schedule are there too."""
    folder = trial.scratch / "begin"
    folder.mkdir()
    TrainerState(**trial.restored["state"]).save_to_json(str(folder / TRAINER_STATE_NAME))
    trainer._load_from_checkpoint = lambda *_, **__: None  # it would refuse a folder without weights
    return folder


class _Callback(TrainerCallback):
    """Args:
    sets: that each epoch is evaluated on, one after another.
    """

    def __init__(self, trial: Trial, names: Mapping[str, str] | None, sets: int = 1) -> None:
        self._trial, self._teller, self._sets = trial, Teller(trial, names, PARTS), sets
        self._evaluated: list[Mapping[str, float]] = []
        self._train_loss: dict[str, float] = {}
        self._epoch_ended = False  # its evaluation is the epoch's
        self._told = False  # since the last chance of a snapshot

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **more: Any
    ) -> None:
        self._trial.restore(**_parts(more))

    def on_epoch_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **more: Any
    ) -> None:
        self._keep(state, more)

    def on_epoch_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **more: Any
    ) -> None:
        self._epoch_ended = True

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: Mapping[str, float] | None = None,
        **more: Any,
    ) -> None:
        """The last words of a training come before the best weights are loaded over the newest."""
        logs = logs or {}
        if "loss" in logs:
            self._train_loss = {"train/loss": logs["loss"]}
        self._keep(state, more)

    def on_evaluate(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        metrics: Mapping[str, float],
        **more: Any,
    ) -> None:
        if not self._epoch_ended:
            return
        self._evaluated.append(metrics)
        if len(self._evaluated) < self._sets:
            return
        self._epoch_ended, self._told = False, True
        found = {n: value for one in self._evaluated for n, value in one.items() if _is_of_model(n)}
        self._evaluated.clear()
        if self._teller.tell(round(state.epoch or 0), self._train_loss | found):
            control.should_training_stop = True

    def _keep(self, state: TrainerState, more: Mapping[str, Any]) -> None:
        """Once the epoch's evaluation has had all its consequences: a schedule that waits for it, the best
        metric."""
        if self._told and self._teller.snapshot_is_due:
            self._trial.snapshot(**_parts(more), state=dataclasses.asdict(state))
        self._told = False


def _is_of_model(name: str) -> bool:
    return name != "epoch" and not name.endswith(COSTS)


def _parts(more: Mapping[str, Any]) -> dict[str, Any]:
    optimizer = more["optimizer"]
    return {
        "model": more["model"],
        "optimizer": getattr(optimizer, "optimizer", optimizer),  # below what accelerate put around it
        "scheduler": more["lr_scheduler"],
    }
