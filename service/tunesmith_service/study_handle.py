"""A study in Python, for notebooks and scripts: what `Client.study` gives.

>>> from tunesmith_service.client import Client
>>> client = Client("http://127.0.0.1:8787", token)                              # doctest: +SKIP
>>> study = client.create({"name": "lr", "task": "digits", "space": …, "recipe": "quick"})  # doctest: +SKIP
>>> study.wait()                                                                 # doctest: +SKIP
'complete'
>>> study.trials_dataframe().nsmallest(5, "value")                               # doctest: +SKIP

Tables need pandas, which Tunesmith itself does not.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from html import escape
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd

    from tunesmith_service.client import Client

ENDED = ("complete", "stopped")
POLL_SECONDS, AT_ONCE = 1.0, 1000
TIMES = {"created_at": "datetime_created", "started_at": "datetime_start", "ended_at": "datetime_complete"}
"""Of a trial, by the names that Optuna's tables have."""


class Study:
    """One study of a service. Every property and method asks the service anew.

    Raises (every call): `Refused` and its kinds, such as NotFound; `Unavailable`.
    """

    def __init__(self, client: Client, name: str | int) -> None:
        self._client, self.name = client, name

    def __repr__(self) -> str:
        return f"<Study {self.name!r}>"

    def _repr_html_(self) -> str:
        """For notebooks: its state, stages and best trial."""
        found, best = self.show(), self.best
        rows = "".join(
            f"<tr><td>{escape(s['name'])}</td><td>{escape(s['kind'])}</td><td>{escape(s['state'])}</td></tr>"
            for s in found["stages"]
        )
        told = (
            ""
            if best is None
            else f"<p>Best: trial {best['number']}, {best['value']:.6g}, {_listed(best['params'])}</p>"
        )
        head = f"<p><b>{escape(found['name'])}</b>: {escape(found['state'])}</p>"
        return f"{head}<table><tr><th>stage</th><th>kind</th><th>state</th></tr>{rows}</table>{told}"

    # --- looking ---

    def show(self) -> dict[str, Any]:
        """As `GET studies/{study}` has it: spec, stages, counts, best."""
        found: dict[str, Any] = self._client.get("studies", self.name)
        return found

    @property
    def state(self) -> str:
        return str(self.show()["state"])

    @property
    def stages(self) -> list[dict[str, Any]]:
        """In order, with what each chose and why."""
        found: list[dict[str, Any]] = self.show()["stages"]
        return found

    @property
    def best(self) -> dict[str, Any] | None:
        """The best trial; None before there is one."""
        items = self._client.get("studies", self.name, "best")["items"]
        return items[0] if items else None

    def trials(self, filter: str = "", *, sort: str = "number") -> Iterator[dict[str, Any]]:
        """Those that a filter picks, such as `"state:complete val/loss<0.1"`; see docs/filters.md."""
        return self._client.pages(
            "studies", self.name, "trials", filter=filter or None, sort=sort, limit=AT_ONCE
        )

    def curve(self, number: int) -> list[dict[str, Any]]:
        """A trial's points: `{"step": …, "metrics": {…}}`."""
        found: list[dict[str, Any]] = self._client.get("studies", self.name, "trials", number, "curve")[
            "points"
        ]
        return found

    def events(self, after: int = 0) -> Iterator[dict[str, Any]]:
        """What happened, in order, from the event behind number `after` on."""
        return self._client.pages("studies", self.name, "events", after=after, limit=AT_ONCE)

    def trials_dataframe(self, filter: str = "") -> pd.DataFrame:
        """A row a trial: number, state, stage, value, …, `params_lr`, …, `metrics_val/loss`, …; columns that
        Optuna's `trials_dataframe` has too mean the same."""
        pandas = _pandas()
        found = pandas.DataFrame([_row(trial) for trial in self.trials(filter)])
        for name in TIMES.values():
            if name in found:
                found[name] = pandas.to_datetime(found[name])
        if "datetime_start" in found:
            found.insert(
                list(found.columns).index("datetime_complete") + 1,
                "duration",
                found["datetime_complete"] - found["datetime_start"],
            )
        return found

    def metrics_dataframe(self, filter: str = "") -> pd.DataFrame:
        """A row a point: number, step, and a column for each metric. Asks once for each trial."""
        points = [
            {"number": trial["number"], "step": point["step"], **_numbers(point["metrics"])}
            for trial in self.trials(filter)
            for point in self.curve(trial["number"])
        ]
        return _pandas().DataFrame(points, columns=None if points else ["number", "step"])

    # --- steering ---

    def wait(
        self,
        timeout: float | None = None,
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> str:
        """Until it has ended. Returns: `complete` or `stopped`. Raises: TimeoutError after `timeout` s."""
        until = None if timeout is None else clock() + timeout
        while (state := self.state) not in ENDED:
            if until is not None and clock() >= until:
                raise TimeoutError(f"study {self.name} is {state} after {timeout:g} s")
            sleep(POLL_SECONDS)
        return state

    def enqueue(self, params: Sequence[Mapping[str, Any]], *, stage: str | None = None) -> list[int]:
        """Queue trials by hand, all or none. Returns: their numbers."""
        body: dict[str, Any] = {"params": [dict(p) for p in params]}
        if stage is not None:
            body["stage"] = stage
        found: list[int] = self._client.post("studies", self.name, "trials", json=body)["numbers"]
        return found

    def pause(self) -> None:
        self._client.post("studies", self.name, "pause")

    def resume(self) -> None:
        self._client.post("studies", self.name, "resume")

    def stop(self) -> None:
        """For good: what waits and runs is cancelled."""
        self._client.post("studies", self.name, "stop")


def _row(trial: Mapping[str, Any]) -> dict[str, Any]:
    plain = (
        "number",
        "state",
        "stage",
        "value",
        "stop_reason",
        "kind",
        "epochs",
        "unit",
        "step",
        "attempt",
        "worker",
    )
    found = {name: trial[name] for name in plain}
    found["value"] = None if trial["value"] is None else float(trial["value"])
    found |= {ours: trial[name] for name, ours in TIMES.items()}
    found |= {f"params_{name}": value for name, value in trial["params"].items()}
    return found | {f"metrics_{n}": v for n, v in _numbers(trial["last_metrics"] or {}).items()}


def _numbers(metrics: Mapping[str, float | str]) -> dict[str, float]:
    """NaN and the infinities travel as words."""
    return {name: float(value) for name, value in metrics.items()}


def _listed(params: Mapping[str, Any]) -> str:
    return escape(", ".join(f"{name}={value}" for name, value in params.items()))


def _pandas() -> Any:
    try:
        import pandas  # noqa: PLC0415  (for those who want tables alone)
    except ImportError as e:
        raise ImportError(f"{e}; tables need pandas: pip install pandas") from e
    return pandas
