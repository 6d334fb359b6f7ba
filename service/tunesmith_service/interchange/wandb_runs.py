"""A study as offline runs of Weights & Biases: one for each trial that was begun, the study their group.

Nothing is sent: `wandb sync` does that, when and where somebody wants. wandb's own process writes the files,
a second or so a trial. Ids follow from the study and the number, so a run that is sent again is the same.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tunesmith_service.interchange.points import (
    AlreadyThere,
    Answer,
    Times,
    began,
    needed,
    numbers,
    times,
)
from tunesmith_service.study_handle import Study

RUNS = "wandb/offline-run-*"
LONGEST_TAG = 64
"""Characters that W&B takes."""


@dataclass(frozen=True, slots=True)
class Exported:
    directory: Path
    project: str
    trials: int
    points: int


def export(study: Study, directory: Path, *, project: str = "tunesmith", overwrite: bool = False) -> Exported:
    """Write a study's runs below `directory/wandb`.

    Args:
        overwrite: replace those of an earlier export of this study; others stay.
    Raises: AlreadyThere; ValueError that names the extra to install.
    """
    wandb = needed("wandb", "wandb")
    shown = study.show()
    prefix = hashlib.sha256(f"{shown['id']} {shown['created_at']} {shown['name']}".encode()).hexdigest()[:8]
    try:
        wandb.Settings(project=project)
    except (ValueError, wandb.errors.Error) as e:
        raise ValueError(f"W&B takes no project {project!r}: {e}") from e
    _make_room(directory, shown["name"], prefix, overwrite=overwrite)
    directory.mkdir(parents=True, exist_ok=True)
    reported = times(study)
    trials = points = 0
    try:
        for trial in began(study):
            of_study = {"id": prefix, "dir": directory, "project": project, "group": shown["name"]}
            with _run(wandb, trial, **of_study) as run:
                points += _log(run, study.curve(trial["number"]), trial, reported)
            trials += 1
    finally:
        wandb.teardown()  # ends its process
    return Exported(directory, project, trials, points)


def _make_room(directory: Path, name: str, prefix: str, *, overwrite: bool) -> None:
    ours = sorted(directory.glob(f"{RUNS}-{prefix}-*"))
    if ours and not overwrite:
        raise AlreadyThere(
            f"{directory} has {len(ours)} runs of study {name} already; replace them with --overwrite, "
            "or name another directory"
        )
    for run in ours:
        shutil.rmtree(run)


@contextmanager
def _run(wandb: Any, trial: Answer, **of_study: Any) -> Iterator[Any]:
    """Args:
    of_study: id (its trials' begins with it), dir, project, group.
    """
    own = wandb.Settings(
        console="off", silent=True, disable_git=True, disable_code=True, x_disable_stats=True,
        x_disable_meta=True, x_disable_machine_info=True, x_save_requirements=False,
    )  # fmt: skip
    run = wandb.init(
        mode="offline",
        **of_study | {"id": f"{of_study['id']}-{trial['number']}"},
        name=f"trial {trial['number']}",
        job_type=trial["stage"][:LONGEST_TAG],
        tags=[trial["stage"][:LONGEST_TAG], trial["state"]],
        config=trial["params"],
        reinit="create_new",
        settings=own,
    )
    try:
        yield run
    finally:
        run.finish(exit_code=1 if trial["state"] == "failed" else 0)


def _log(run: Any, points: list[dict[str, Any]], trial: Answer, reported: Times) -> int:
    for point in points:
        at = None if trial["imported"] else reported.get((trial["number"], point["step"]))
        when = {} if at is None else {"_timestamp": at / 1000}
        run.log({**numbers(point["metrics"]), **when}, step=point["step"])
    noted = ("number", "stage", "state", "stop_reason", "attempt")
    run.summary.update({name: trial[name] for name in noted})
    if trial["value"] is not None:
        run.summary["objective"] = float(trial["value"])
    return len(points)
