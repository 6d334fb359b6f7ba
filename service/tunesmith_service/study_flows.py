"""What `Study` and `AsyncStudy` ask of a service, each a flow; and the tables that they make of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from tunesmith_service.calls import Call, Flow, Rest, all_items
from tunesmith_service.errors import NotFound, TunesmithError

if TYPE_CHECKING:
    import pandas as pd

ENDED = ("complete", "stopped")
POLL_SECONDS, AT_ONCE = 1.0, 1000
TIMES = {"created_at": "datetime_created", "started_at": "datetime_start", "ended_at": "datetime_complete"}
"""Of a trial, by the names that Optuna's tables have."""

PLAIN = (
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

Found = dict[str, Any]


class StudyBlockedError(TunesmithError):
    """A check keeps a study from going on until a person repairs what it names, or overrides it."""


def show(study: str) -> Flow[Found]:
    found: Found = yield Call("GET", ("studies", study))
    return found


def state(study: str) -> Flow[str]:
    return str((yield from show(study))["state"])


def stages(study: str) -> Flow[list[Found]]:
    found: list[Found] = (yield from show(study))["stages"]
    return found


def best(study: str) -> Flow[Found | None]:
    items = (yield Call("GET", ("studies", study, "best")))["items"]
    return items[0] if items else None


def snapshot(study: str, number: int | None, step: int | None) -> Flow[dict[str, int]]:
    """Which one is meant: of the best trial if none is named, the last if no step is. Raises: NotFound."""
    if number is None:
        if (found := (yield from best(study))) is None:
            raise NotFound(f"study {study} has no best trial yet")
        number = int(found["number"])
    if step is None:
        kept = (yield Call("GET", ("studies", study, "trials", number)))["snapshots"]
        if not kept:
            raise NotFound(
                f"trial {number} of {study} left no snapshot, or it is deleted by now: kept are those that a "
                "later stage may go on from, and the honest seeds of a final stage"
            )
        step = int(max(kept))
    return {"number": number, "step": step}


def curve(study: str, number: int) -> Flow[list[Found]]:
    found: list[Found] = (yield Call("GET", ("studies", study, "trials", number, "curve")))["points"]
    return found


def wait(study: str, timeout: float | None, clock: Callable[[], float]) -> Flow[str]:
    until = None if timeout is None else clock() + timeout
    while (found := (yield from show(study)))["state"] not in ENDED:
        if found["blocked_by"]:
            raise StudyBlockedError(
                f"study {study} is {found['state']}, for its stage {found['blocked_by']} blocks it: "
                f"{found['reason']}"
            )
        if until is not None and clock() >= until:
            raise TimeoutError(f"study {study} is {found['state']} after {timeout:g} s")
        yield Rest(POLL_SECONDS)
    return str(found["state"])


def enqueue(study: str, params: Sequence[Mapping[str, Any]], stage: str | None) -> Flow[list[int]]:
    body: Found = {"params": [dict(p) for p in params]}
    if stage is not None:
        body["stage"] = stage
    found: list[int] = (yield Call("POST", ("studies", study, "trials"), body))["numbers"]
    return found


def move(study: str, how: str) -> Flow[None]:
    yield Call("POST", ("studies", study, how))


# --- tables ---------------------------------------------------------------------------------------


def trials_table(study: str, which: str) -> Flow[pd.DataFrame]:
    pandas = _pandas()
    trials = yield from _trials(study, which)
    found = pandas.DataFrame([_row(trial) for trial in trials])
    for name in TIMES.values():
        if name in found:
            found[name] = pandas.to_datetime(found[name], format="ISO8601", utc=True)
    if "datetime_start" in found:
        found.insert(
            list(found.columns).index("datetime_complete") + 1,
            "duration",
            found["datetime_complete"] - found["datetime_start"],
        )
    return found


def metrics_table(study: str, which: str) -> Flow[pd.DataFrame]:
    points = []
    for trial in (yield from _trials(study, which)):
        for point in (yield from curve(study, trial["number"])):
            points.append({"number": trial["number"], "step": point["step"], **_numbers(point["metrics"])})
    return _pandas().DataFrame(points, columns=None if points else ["number", "step"])


def _trials(study: str, which: str) -> Flow[list[Found]]:
    return (
        yield from all_items("studies", study, "trials", filter=which or None, sort="number", limit=AT_ONCE)
    )


def _row(trial: Mapping[str, Any]) -> Found:
    found = {name: trial[name] for name in PLAIN}
    found["value"] = None if trial["value"] is None else float(trial["value"])
    found |= {ours: trial[name] for name, ours in TIMES.items()}
    found |= {f"params_{name}": value for name, value in trial["params"].items()}
    return found | {f"metrics_{n}": v for n, v in _numbers(trial["last_metrics"] or {}).items()}


def _numbers(metrics: Mapping[str, float | str]) -> dict[str, float]:
    """NaN and the infinities travel as words."""
    return {name: float(value) for name, value in metrics.items()}


def _pandas() -> Any:
    try:
        import pandas  # noqa: PLC0415  (for those who want tables alone)
    except ImportError as e:
        raise ImportError(f"{e}; tables need pandas: pip install pandas") from e
    return pandas
