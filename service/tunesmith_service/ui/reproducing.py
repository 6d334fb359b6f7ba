"""How to run a trial again: the command that queues the same settings, and what else decided its figures."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tunesmith_service.store import Study
from tunesmith_service.trial_store import Trial


@dataclass(frozen=True, slots=True)
class Recipe:
    """A trial's command and facts: pairs of a name and a text that is copied whole."""

    command: str
    facts: list[tuple[str, str]]


def command(study: str, stage: str, params: Mapping[str, Any], epochs: int | None) -> str:
    """One line for a POSIX shell that queues a trial with these settings.

    >>> command("my study", "grid", {"lr": 0.01, "optimizer": "adam"}, 5)
    "tunesmith trial enqueue 'my study' --stage grid -p lr=0.01 -p optimizer=adam --epochs 5"
    """
    words = ["tunesmith", "trial", "enqueue", "--stage", stage]
    for name, value in params.items():
        words += ["-p", f"{name}={_written(value)}"]
    if epochs is not None:
        words += ["--epochs", str(epochs)]
    said = [shlex.quote(w) for w in words]
    return " ".join([*said[:3], shlex.quote(study), *said[3:]])


def _written(value: Any) -> str:
    """As the command line reads it back: a float keeps its point, so that it stays a float."""
    if isinstance(value, bool):
        return "true" if value else "false"
    return repr(value) if isinstance(value, float) else str(value)


def recipe(study: Study, trial: Trial, worker: str | None) -> Recipe:
    """Args: worker: its version, such as `tunesmith 0.2.0 on gpu-a`."""
    work = trial.work
    facts = [("seed", str(work.get("seed", "–")))]
    if work.get("data_fraction", 1.0) != 1.0:
        facts.append(("share of the training data", f"{work['data_fraction']:.0%}"))
    if trial.start:
        facts.append(("went on from", f"#{trial.start['trial']} at {trial.start['step']}"))
    facts += [("task", study.task), ("task digest", study.task_digest or "–")]
    if worker:
        facts.append(("worker", worker))
    return Recipe(of_trial(study.name, trial), facts)


def of_trial(study: str, trial: Trial) -> str:
    """The command for a trial; one that counts steps or seconds leaves its length to its stage."""
    work = trial.work
    counts_epochs = trial.kind == "train" and not any(work.get(name) for name in ("steps", "seconds"))
    return command(study, trial.stage, trial.params, int(work["epochs"]) if counts_epochs else None)
