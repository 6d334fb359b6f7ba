"""The state of a training, and what comes between two of its points.

Every generator is seeded by the work order, the order of samples is a function of seed and epoch, and
after a restore the trial's own hyperparameters rule. A snapshot therefore holds what cannot be
computed from a work order: weights, the optimizer's state of each parameter, random state, position,
seed, running sums, the curve, the best weights so far, and the seconds spent where these are the budget.
The rates and decays of its optimizer are in it for the reader alone; a branch never gets its trunk's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tunesmith_service.wire import WorkOrder
from tunesmith_studies.vocabulary import ANY_LENGTH_SCHEDULES

from tunesmith_workers import inspection, rng, schedules, snapshots
from tunesmith_workers.best import BestWeights
from tunesmith_workers.data import cut, epoch_order, steps_per_epoch
from tunesmith_workers.endings import (
    Artifact,
    Asked,
    Curve,
    Ending,
    Saved,
    Wish,
)
from tunesmith_workers.evaluation import evaluate, outputs
from tunesmith_workers.freezing import Freezing
from tunesmith_workers.gang import ALONE, Gang, Word
from tunesmith_workers.optim import flag, real, whole, word
from tunesmith_workers.preparation import given, prepared
from tunesmith_workers.pretrain import pretraining
from tunesmith_workers.schedules import Length
from tunesmith_workers.snapshots import SnapshotCorrupt
from tunesmith_workers.stepping import Learner
from tunesmith_workers.stopwatch import Stopwatch
from tunesmith_workers.tally import Tally
from tunesmith_workers.tasks.registry import Entry, Task


class Training:
    """Raises: ValueError or TaskError on hyperparameters that make no training, SnapshotCorrupt on a
        snapshot that cannot be gone on from.

    Attributes:
        curve: the trial's own points.
        epoch, batch: whole epochs done, and optimizer steps done of the next one.
        steps: optimizer steps done in all.
    """

    def __init__(
        self,
        entry: Entry,
        work: WorkOrder,
        device: torch.device,
        *,
        resume: Path | None,
        threads: int,
        clock: Callable[[], float],
        gang: Gang = ALONE,
    ) -> None:
        if not isinstance(entry.task, Task):
            raise TypeError(f"{entry.name} trains by its own loop")
        self.task, self.name, self.work, self.device = entry.task, entry.name, work, device
        self.gang = gang
        self.counts_steps = work.steps is not None or work.seconds is not None or bool(work.validate_every)
        params = work.params
        saved = snapshots.load(resume, mapped="model") if resume else None
        self.is_resumed = saved is not None
        self.seed = snapshots.seed_of(saved, default=work.seed)
        rng.begin(self.seed, threads)
        self.splits = prepared(self.task, work, seed=self.seed, device=device)
        self.learner = Learner(self.task, params, self.splits.train, seed=self.seed, device=device, gang=gang)
        self.freezing = Freezing(self.learner.model, params)
        self.length = _length(work, steps_per_epoch(len(self.splits.train), self.learner.step_size))
        self.schedule = schedules.make_schedule(self.learner.optimizer, params, self.length)
        self.tally = Tally(self.task.metrics.get("accuracy"))
        self.curve = Curve(work, self.task.classes)
        restores = whole(params, "early_stopping") and flag(params, "restore_best")
        self.best = BestWeights(self.learner.model) if restores else None
        self.watch = Stopwatch(clock, device)
        self.epoch = 0  # whole epochs done
        self.batch = 0  # optimizer steps done of the next one
        self.steps = 0  # optimizer steps done in all
        self.passes_before = 0.0  # passes that the trial did whose snapshot this one started from
        self.has_restored = False  # whether the model got its best weights back
        self.rate = real(params, "lr")  # of the newest step
        self.pretraining = pretraining(self.learner.model, self.splits.train.x, params, self.seed)
        if saved is not None:
            _refusing(self._restore, saved)
        self._chunks: list[Tensor] = []  # of the epoch `_chunks_of`
        self._chunks_of = -1
        self._begin_lap()

    @property
    def at(self) -> int:
        """What a point's and a snapshot's step counts."""
        return self.steps if self.counts_steps else self.epoch

    def is_spent(self) -> bool:
        """Whether the budget is."""
        work = self.work
        return (
            self.epoch >= work.epochs
            or (work.steps is not None and self.steps >= work.steps)
            or (work.seconds is not None and self.watch.spent >= work.seconds)
        )

    def train(self, asked: Asked) -> Wish | None:
        """Go on to the next point, or stop before a step because the supervisor asks."""
        with self.watch.running():
            return self._pretrain(asked) or self._train(asked)

    def _pretrain(self, asked: Asked) -> Wish | None:
        if self.pretraining is None or self.pretraining.epoch == whole(self.work.params, "pretrain_epochs"):
            return None
        wish = self.pretraining.train(asked)
        if wish is None:
            print(self.pretraining.described())
            self.gang.agreed(Word.WEIGHTS)
            self.learner.share_weights()
        return wish

    def _train(self, asked: Asked) -> Wish | None:
        self.freezing.train(self.epoch)
        for chunk in self._chunks_ahead():
            if wish := asked():
                return wish
            self.gang.agreed(Word.STEP)
            self._step(chunk)
            if self.counts_steps and self._is_due():
                break
        return None

    def _step(self, chunk: Tensor) -> None:
        self.tally.add(self.learner.step(chunk, self.epoch, self.batch))
        self.rate = float(self.learner.optimizer.param_groups[0]["lr"])
        self.schedule.after("step")
        self.batch, self.steps = self.batch + 1, self.steps + 1

    def follow(self) -> None:
        """Do what rank 0 says, until it says that the end has come."""
        self.freezing.train(self.epoch)
        while (word := self.gang.agreed()) != Word.END:
            match word:
                case Word.STEP:
                    self._step(self._chunks_ahead()[0])
                case Word.POINT:
                    self.tally.gather(self.gang)
                    self._turn()
                    self.freezing.train(self.epoch)
                case Word.SAVE:
                    self.tally.gather(self.gang)
                case Word.WEIGHTS:
                    self.learner.share_weights()

    def _chunks_ahead(self) -> list[Tensor]:
        """What is left of this epoch."""
        if self._chunks_of != self.epoch:
            order = epoch_order(len(self.splits.train), self.seed, self.epoch).to(self.device)
            self._chunks, self._chunks_of = cut(order, self.learner.step_size), self.epoch
        return self._chunks[self.batch :]

    def _is_due(self) -> bool:
        every = self.work.validate_every
        return self.is_spent() or bool(every and self.steps % every == 0)

    def point(self) -> dict[str, float]:
        """Evaluate, move on to the next epoch if this one is done, and note what was measured.

        `train/…` is of the steps since the point before, without regularisation.
        """
        self.gang.agreed(Word.POINT)
        self.tally.gather(self.gang)
        metrics = self.tally.metrics()
        for name, split in (("val", self.splits.val), ("train_dev", self.splits.train_dev)):
            if split is not None:
                found = evaluate(self.task, self.learner.model, split)
                metrics |= {f"{name}/{metric}": value for metric, value in found.items()}
        metrics["grad/norm"] = self.learner.gradient_norm()
        metrics |= self._measured()
        self._turn()
        self._begin_lap()
        self.curve.add(self.at, metrics)
        best = self.curve.best()
        if self.best and best and best[0] == self.at:
            self.best.keep(self.at)
        return metrics

    def _turn(self) -> None:
        """Move on from a point, to the next epoch if this one is done."""
        if self.batch == self.length.steps:
            self.schedule.after("epoch")
            self.epoch, self.batch = self.epoch + 1, 0
        self.tally.clear()

    def _measured(self) -> dict[str, float]:
        """What the trial did and cost since the point before, or since this attempt began: it decides
        nothing, and clocks differ between runs."""
        samples, spent = self._lap
        seconds = self.watch.spent - spent
        found = {"sys/lr": self.rate, "sys/train_seconds": seconds}
        if seconds > 0:
            found["sys/samples_per_second"] = (self.tally.samples - samples) / seconds
        if self.counts_steps or self.pretraining:
            found["sys/epoch"] = self._passes() - self.passes_before
        if self.learner.micro_batch < self.learner.at_once:
            found["sys/micro_batch"] = self.learner.micro_batch
        return found

    def _passes(self) -> float:
        """Passes over the training split that these weights have seen, those of pre-training included."""
        pretrained = self.pretraining.epoch if self.pretraining else 0
        share = min(1.0, self.batch * self.learner.step_size / len(self.splits.train))
        return pretrained + self.epoch + share

    def _begin_lap(self) -> None:
        self._lap = (self.tally.samples, self.watch.spent)

    def restored(self, ending: Ending | None) -> dict[str, float]:
        """Give the model the weights of its best point if this ending asks for it; what changes thereby."""
        if self.best is None or self.best.step is None or ending is None:
            return {}
        if ending.stop_reason != "early_stopping" or self.best.step == self.at:
            return {}
        step, self.has_restored = self.best.step, True
        self.best.put_back()
        kept = dict(self.curve.points)[step]
        found = {
            k: v for k, v in kept.items() if k.startswith(("val/", "train_dev/")) or k == self.work.metric
        }
        return found | {"sys/restored_step": step}

    def save(self, scratch: Path, *, final: bool) -> Saved:
        learner = self.learner
        self.gang.agreed(Word.SAVE)
        self.tally.gather(self.gang)
        tree = {
            "trial": [self.work.study, self.work.number],
            "task": self.name,
            "params": dict(self.work.params),
            "seed": self.seed,
            "epoch": self.epoch,
            "batch": self.batch,
            "steps": self.steps,
            "passes_before": self.passes_before,
            # Only where it decides something: else equal trainings would leave different snapshots.
            "train_seconds": self.watch.spent if self.work.seconds is not None else None,
            "shape": self._shape(),
            "tally": self.tally.save(),
            "curve": self.curve.save(),
            "model": learner.model.state_dict(),
            "best": self.best.save() if self.best and not final else None,
            "optimizer": learner.optimizer.state_dict() | {"kind": type(learner.optimizer).__name__},
            "scaler": learner.scaler.state_dict(),
            "micro_batch": learner.micro_batch,
            "pretraining": self.pretraining.save() if self.pretraining else None,
            "rng": rng.state(self.device),
        }
        path = scratch / f"snapshot-{self.epoch}-{self.batch}.safetensors"
        batch = 0 if self.counts_steps else self.batch
        return Saved(self.at, batch, snapshots.save(path, tree), final)

    def inspected(self, scratch: Path) -> Iterator[Artifact]:
        """What the model makes of the validation split, for people to look at."""
        said = outputs(self.learner.model, self.splits.val)
        return inspection.artifacts(self.task, said, given(self.task, self.work).val, scratch)

    def described(self) -> str:
        """The training in a line, for its log."""
        model = self.learner.model
        size = sum(p.numel() for p in model.parameters())
        going_on = (
            f"; goes on after epoch {self.epoch}, step {self.batch}" if self.epoch or self.batch else ""
        )
        origin = "" if self.is_resumed else self.learner.origin
        more = "".join(f"; {said}" for said in (origin, self.freezing.described()) if said)
        return (
            f"{type(model).__name__} of {size:,} parameters on {self.device}; {len(self.splits.train):,} "
            f"samples to train, {len(self.splits.val):,} to validate; {self.length.steps:,} steps an epoch"
            f"{going_on}{more}"
        )

    def summed_up(self, ending: Ending) -> str:
        """How it ended, in a line."""
        why = f" ({ending.stop_reason})" if ending.stop_reason else ""
        best = self.curve.best()
        unit = "step" if self.counts_steps else "epoch"
        kept = ", whose weights are kept" if self.has_restored else ""
        found = f"; best {self.work.metric} {best[1]:.6g} in {unit} {best[0]}{kept}" if best else ""
        return f"{ending.state}{why} after {self._done()}{found}"

    def _done(self) -> str:
        if self.work.steps is not None:
            return f"{self.steps} of {self.work.steps} steps"
        if self.work.seconds is not None:
            return f"{self.watch.spent:.1f} of {self.work.seconds:g} seconds, {self.steps} steps"
        return f"{self.epoch} of {self.work.epochs} epochs"

    def _shape(self) -> list[int]:
        """What a position in the middle of an epoch counts in."""
        return [len(self.splits.train), self.learner.step_size]

    def _restore(self, saved: Mapping[str, Any]) -> None:
        learner = self.learner
        snapshots.restore_model(learner.model, saved["model"])
        snapshots.restore_optimizer(learner.optimizer, saved["optimizer"])
        if saved["scaler"]:  # empty where the trial that it is from did not compute in fp16
            learner.scaler.load_state_dict(saved["scaler"])
        self.epoch, self.steps, self.watch.before = (
            saved["epoch"],
            saved["steps"],
            saved["train_seconds"] or 0.0,
        )
        if saved["shape"] == self._shape():
            self.batch = saved["batch"]
            self.tally.restore(saved["tally"], self.device, rank=self.gang.rank)
        # Else its steps are not ours (another batch size): the epoch begins again with these weights.
        self.schedule.replay(self.epoch, self.batch, self.length)
        if self.pretraining and saved["pretraining"] is not None:
            self.pretraining.restore(saved["pretraining"])
        else:
            self.pretraining = None  # these weights are trained already
        if saved["trial"] == [self.work.study, self.work.number]:
            self._restore_own(saved)
        else:
            self.passes_before = self._passes()
        rng.restore(saved["rng"], self.device)

    def _restore_own(self, saved: Mapping[str, Any]) -> None:
        """What a trial has from its own snapshot alone."""
        self.curve.restore(saved["curve"])
        self.passes_before = saved["passes_before"]
        self.learner.micro_batch = saved["micro_batch"]
        if self.best:
            self.best.restore(saved["best"])


def _length(work: WorkOrder, steps: int) -> Length:
    """Raises ValueError on a schedule that a budget in seconds gives no length."""
    if work.seconds is not None and schedules.needs_length(work.params):
        raise ValueError(
            f"schedule {word(work.params, 'schedule')} depends on how long a run is, which a budget of "
            f"{work.seconds:g} seconds does not say: take one of {', '.join(ANY_LENGTH_SCHEDULES)}, or a "
            "budget in steps"
        )
    total = None if work.steps is None else min(work.steps, work.epochs * steps)
    return Length(work.epochs, steps, total)


def _refusing(restore: Callable[[Mapping[str, Any]], None], saved: Mapping[str, Any]) -> None:
    """Restore; whatever a damaged tree makes fail is the snapshot's fault, not the trial's."""
    try:
        restore(saved)
    except (KeyError, TypeError, ValueError, IndexError, AttributeError) as e:
        raise SnapshotCorrupt(f"the snapshot does not fit this trial: {type(e).__name__}: {e}") from e
