"""A study as MLflow runs: one for the study, and a child of it for each trial that was begun.

A pruned trial is FINISHED, for it is a result; the tag `tunesmith.state` says which. MLflow keeps settings as
texts, and knows fewer characters in names: others become `_`.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy.exc import SQLAlchemyError

from tunesmith_service.interchange.points import (
    AlreadyThere,
    Answer,
    Times,
    began,
    fit,
    milliseconds,
    needed,
    numbers,
    refuse_our_own,
    times,
)
from tunesmith_service.study_handle import Study

OBJECTIVE = "objective"
PARENT = "mlflow.parentRunId"
STUDY = "tunesmith.study"
"""The tag of all runs of a study, with its name."""
_STATUS = {"failed": "FAILED", "cancelled": "KILLED", "running": "RUNNING", "waiting": "SCHEDULED"}
_OF_STUDY = {"active": "RUNNING", "paused": "RUNNING", "stopped": "KILLED"}
_NOTED = ("number", "stage", "state", "stop_reason", "attempt", "worker")
_DATABASES = ("sqlite:", "postgresql", "mysql", "mssql")
_PATIENCE = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2", "MLFLOW_HTTP_REQUEST_TIMEOUT": "20"}
"""MLflow's own, of seven tries, has a person wait for four minutes for a server that is not there."""
_MOST_METRICS, _MOST_PARAMS = 1000, 100  # that MLflow takes at once


@dataclass(frozen=True, slots=True)
class Exported:
    """Attributes:
    experiment: its name.
    run_id: of the parent.
    trials, points: that were written.
    """

    experiment: str
    run_id: str
    trials: int
    points: int


def export(study: Study, tracking_uri: str, *, experiment: str = "", overwrite: bool = False) -> Exported:
    """Write a study's runs.

    Args:
        tracking_uri: as MLflow takes it, such as http://127.0.0.1:5000 or sqlite:///mlflow.db.
        experiment: made if it is not there; default the study's name.
        overwrite: delete the runs of an earlier export, as MLflow deletes.
    Raises: AlreadyThere; ValueError that names the extra to install, or says what MLflow said.
    """
    for name, value in _PATIENCE.items():
        os.environ.setdefault(name, value)
    mlflow = needed("mlflow", "mlflow")
    try:
        if tracking_uri.startswith(_DATABASES):
            refuse_our_own(tracking_uri)
        return _Writer(mlflow, study, tracking_uri).write(experiment, overwrite=overwrite)
    except mlflow.exceptions.MlflowException as e:
        raise ValueError(f"MLflow at {tracking_uri} refuses: {e}") from e
    except (SQLAlchemyError, ImportError) as e:
        first = str(e).partition("\n")[0]
        raise ValueError(f"MLflow does not reach the database of its runs: {first}") from e


class _Writer:
    def __init__(self, mlflow: Any, study: Study, tracking_uri: str) -> None:
        self._entities, self._study = mlflow.entities, study
        self._client = mlflow.MlflowClient(tracking_uri=tracking_uri)

    def write(self, experiment: str, *, overwrite: bool) -> Exported:
        shown = self._study.show()
        name = experiment or shown["name"]
        experiment_id = self._experiment(name)
        self._make_room(experiment_id, shown["name"], overwrite=overwrite)
        parent = self._client.create_run(
            experiment_id,
            start_time=milliseconds(shown["created_at"]),
            run_name=shown["name"],
            tags={STUDY: shown["name"], "tunesmith.task": shown["task"], "tunesmith.state": shown["state"]},
        ).info.run_id
        self._log(parent, [], shown["spec"]["fixed"])
        reported = times(self._study)
        trials = points = 0
        for trial in began(self._study):
            points += self._trial(experiment_id, parent, trial, reported)
            trials += 1
        self._end_study(parent, shown)
        return Exported(name, parent, trials, points)

    def _experiment(self, name: str) -> str:
        found = self._client.get_experiment_by_name(name)
        return str(found.experiment_id if found else self._client.create_experiment(name))

    def _make_room(self, experiment_id: str, name: str, *, overwrite: bool) -> None:
        """Raises: AlreadyThere if the study's runs are there and may not go."""
        there = list(self._runs(experiment_id, name))
        if there and not overwrite:
            raise AlreadyThere(
                f"the experiment has runs of study {name} already, such as {there[0]}; "
                "replace them with --overwrite, or name another --experiment"
            )
        for run_id in there:
            self._client.delete_run(run_id)

    def _runs(self, experiment_id: str, name: str) -> Iterator[str]:
        """Of the study. MLflow's filters know no sign for a quote in a text, so they ask for any instead."""
        pattern = re.sub(r"['\"\\]", "_", name)
        token = None
        while True:
            page = self._client.search_runs(
                [experiment_id], f"tags.`{STUDY}` LIKE '{pattern}'", page_token=token
            )
            yield from (run.info.run_id for run in page if run.data.tags.get(STUDY) == name)
            if not (token := page.token):
                return

    def _trial(self, experiment_id: str, parent: str, trial: Answer, reported: Times) -> int:
        start = milliseconds(trial["started_at"])
        noted = {f"tunesmith.{name}": str(trial[name]) for name in _NOTED if trial[name] is not None}
        run = self._client.create_run(
            experiment_id,
            start_time=start,
            run_name=f"trial {trial['number']}",
            tags={PARENT: parent, STUDY: self._study.name, **noted},
        ).info.run_id
        points = self._study.curve(trial["number"])
        metrics = list(self._metrics(points, trial, start, reported))
        self._log(run, metrics, trial["params"])
        status = _STATUS.get(trial["state"], "FINISHED")
        if trial["ended_at"] is None:
            self._client.update_run(run, status=status)
        else:
            self._client.set_terminated(run, status, milliseconds(trial["ended_at"]))
        return len(points)

    def _metrics(self, points: Sequence[Answer], trial: Answer, start: int, reported: Times) -> Iterator[Any]:
        """What was run elsewhere has no times of its points but its start."""
        there = {} if trial["imported"] else reported
        for point in points:
            at = there.get((trial["number"], point["step"]), start)
            for name, value in numbers(point["metrics"]).items():
                yield self._entities.Metric(fit(name), value, at, point["step"])
        if trial["value"] is not None:
            yield self._entities.Metric(
                OBJECTIVE, float(trial["value"]), milliseconds(trial["ended_at"]), trial["step"]
            )

    def _log(self, run: str, metrics: Sequence[Any], params: Mapping[str, Any]) -> None:
        told = [self._entities.Param(fit(name), str(value)) for name, value in params.items()]
        for i in range(0, len(told), _MOST_PARAMS):
            self._client.log_batch(run, params=told[i : i + _MOST_PARAMS])
        for i in range(0, len(metrics), _MOST_METRICS):
            self._client.log_batch(run, metrics=metrics[i : i + _MOST_METRICS])

    def _end_study(self, parent: str, shown: Answer) -> None:
        best = self._study.best
        if best is not None:
            at = milliseconds(shown["ended_at"] or shown["created_at"])
            self._log(parent, [self._entities.Metric(OBJECTIVE, float(best["value"]), at, 0)], {})
            self._client.set_tag(parent, "tunesmith.best", str(best["number"]))
        status = _OF_STUDY.get(shown["state"], "FINISHED")
        if shown["ended_at"] is None:
            self._client.update_run(parent, status=status)
        else:
            self._client.set_terminated(parent, status, milliseconds(shown["ended_at"]))
