"""Work of kind `evaluate`: models from several snapshots, each alone and their averaged predictions.

One point is reported. `<split>` is val, and test too where the work order may read it:

| metric | of |
|---|---|
| `ensemble/val/<name>`, `test/ensemble/<name>` | the averaged predictions |
| `member/<i>/val/<name>`, `test/member/<i>/<name>` | the i-th of `work.members` alone |

`<name>` is loss and each of the task's metrics; `loss_error` of an ensemble is the standard error of its
mean loss over the samples. All of the test split stands under `test/`. Members may differ in their
hyperparameters, the network's shape among them: each snapshot holds its own.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from tunesmith_service.wire import WorkOrder

from tunesmith_workers import evaluation, inspection, rng, snapshots
from tunesmith_workers.endings import ABANDONED, BUDGET, RELEASED, EpochResult, Said
from tunesmith_workers.evaluation import are_probabilities, probabilities
from tunesmith_workers.preparation import given, prepared
from tunesmith_workers.snapshots import SnapshotCorrupt
from tunesmith_workers.stepping import TAKEN
from tunesmith_workers.tasks.registry import Entry, Task, TaskError

if TYPE_CHECKING:
    from tunesmith_workers.kinds import Place

MOST_METRICS = 256
"""What a point may hold; see `wire.ReportPoint`."""
_STEP = 1  # of the only point


def members(entry: Entry, work: WorkOrder, place: Place) -> Iterator[Said]:
    """Evaluate `place.members`, the files of `work.members`. Yields a point, artifacts if
    `work.inspect`, and an Ending.

    Raises: TaskError on a task with a loop of its own and on an order without members, SnapshotCorrupt
        on a snapshot that is not of this task's model.
    """
    if not isinstance(entry.task, Task):
        raise TaskError(f"{entry.name} trains by its own loop, so nobody else can evaluate its models")
    if not place.members:
        raise TaskError("an evaluation needs at least one member; the work order names none")
    rng.begin(work.seed, place.threads)
    task = entry.task
    averages: dict[str, Average] = {}
    alone: dict[str, float] = {}
    for i, path in enumerate(place.members):
        if wish := place.asked():
            yield ABANDONED if wish == "abandon" else RELEASED
            return
        for name, (said, targets) in _outputs(task, work, path, place.device).items():
            averages.setdefault(name, Average(task.classes, targets)).add(said)
            found = evaluation.scores(task, said, targets)
            alone |= {_named(name, f"member/{i}", k): v for k, v in found.items()}
    yield EpochResult(_STEP, _fitting(_of_ensemble(task, averages), alone) | {"sys/epoch": 0.0})
    if work.inspect:
        yield from inspection.artifacts(task, averages["val"].mean(), given(task, work).val, place.scratch)
    print(f"{len(place.members)} models evaluated; {_about_test(work, averages)}")
    yield BUDGET


def _outputs(
    task: Task, work: WorkOrder, path: Path, device: torch.device
) -> dict[str, tuple[Tensor, Tensor]]:
    """Outputs and targets of each split, of one member's model on the inputs as it is used to them."""
    saved: Any = snapshots.load(path, mapped="model")
    try:
        params, seed = dict(saved["params"]), int(saved["seed"])
        model = task.build({k: v for k, v in params.items() if k not in TAKEN}).to(device)
        snapshots.restore_model(model, saved["model"])
    except (KeyError, TypeError) as e:
        raise SnapshotCorrupt(f"{path.name} holds no model of this task: {type(e).__name__}: {e}") from e
    own = work.model_copy(update={"params": params})
    splits = prepared(task, own, seed=seed, device=device, with_test=work.read_test)
    found = {"val": splits.val} | ({"test": splits.test} if splits.test is not None else {})
    return {name: (evaluation.outputs(model, split), split.y) for name, split in found.items()}


class Average:
    """The mean of several models' predictions of one split.

    Where each target is one of the classes, or probabilities of them, it is the mean of the classes'
    probabilities: softmax of the outputs, or the outputs where they are probabilities already. Of anything
    else, such as several labels a sample, it is the mean of the outputs.

    Args:
        classes: how many there are, or None.
        targets: of the split, shape (n, …).
    """

    def __init__(self, classes: int | None, targets: Tensor) -> None:
        self.targets = targets
        is_choice = not targets.is_floating_point() or (targets.dim() > 1 and are_probabilities(targets))
        self._classes = classes if is_choice else None
        self._total: Tensor | float = 0.0
        self._count = 0
        self._logits = False
        self._dtype = torch.float32

    def add(self, said: Tensor) -> None:
        """`said`: outputs of one model, shape (n, …), the classes along the second axis."""
        self._count += 1
        self._dtype = said.dtype
        part = said.to(torch.float64)
        if said.dim() > 1 and said.shape[1] == self._classes:
            self._logits |= not are_probabilities(part)
            part = probabilities(part)
        self._total = part + self._total

    def mean(self) -> Tensor:
        """What the task's loss takes, as one model would say it: logarithms of mean probabilities."""
        mean = self._total / self._count
        assert isinstance(mean, Tensor), "an average of nothing"
        if self._logits:
            mean = mean.clamp_min(torch.finfo(self._dtype).tiny).log()
        return mean.to(self._dtype)


def _of_ensemble(task: Task, averages: Mapping[str, Average]) -> dict[str, float]:
    found: dict[str, float] = {}
    for name, average in averages.items():
        said = average.mean()
        scores = evaluation.scores(task, said, average.targets)
        scores["loss_error"] = _error(task, said, average.targets)
        found |= {_named(name, "ensemble", k): v for k, v in scores.items()}
    return found


@torch.no_grad()
def _error(task: Task, said: Tensor, targets: Tensor) -> float:
    """Standard error of the mean loss over the samples; 0 of a single one."""
    losses = task.loss(said, targets).to(torch.float64)
    return float(losses.std()) / math.sqrt(len(losses)) if len(losses) > 1 else 0.0


def _named(split: str, whose: str, metric: str) -> str:
    """All of the test split stands under `test/`, so that a name alone says what it was read from."""
    return f"test/{whose}/{metric}" if split == "test" else f"{whose}/{split}/{metric}"


def _fitting(ensemble: Mapping[str, float], alone: Mapping[str, float]) -> dict[str, float]:
    """As many as a point holds, the ensemble's first."""
    room = MOST_METRICS - len(ensemble) - 1
    if len(alone) > room:
        print(f"{len(alone) - room} numbers of single members left out: a point holds {MOST_METRICS}")
    return {**ensemble, **dict(list(alone.items())[:room])}


def _about_test(work: WorkOrder, averages: Mapping[str, Average]) -> str:
    if not work.read_test:
        return "the test split was left alone"
    return "the test split was read" if "test" in averages else "the task has no test split"
