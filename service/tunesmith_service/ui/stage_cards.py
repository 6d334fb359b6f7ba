"""A study's stages as its page shows them: how far each is, what it found, or what it will do."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError
from tunesmith_studies.grounds import Grounds
from tunesmith_studies.study import StudySpec, forecast
from tunesmith_studies.trial import StageState

from tunesmith_service.findings import StageTime
from tunesmith_service.store import StageRow
from tunesmith_service.ui import formats
from tunesmith_service.ui.views import Best

_BAR_ORDER = ("complete", "pruned", "failed", "cancelled", "running", "waiting")


@dataclass(frozen=True, slots=True)
class Bar:
    """A piece of a progress bar, in percent."""

    state: str
    x: float
    width: float


@dataclass(frozen=True, slots=True)
class StageView:
    name: str
    kind: str
    state: str
    tally: str
    bars: list[Bar]
    best: Best | None
    why: str
    grounds: Grounds | None = None  # where it looks, and what put it there
    time: str = ""  # how long it will take, once a preflight has measured
    override: str = ""  # who let the study go on past it, and why


def bars(counts: Mapping[str, int], total: int) -> list[Bar]:
    """States side by side, as shares of what is planned."""
    out: list[Bar] = []
    x = 0.0
    total = max(total, sum(counts.values()))
    for state in _BAR_ORDER:
        if n := counts.get(state, 0):
            width = 100 * n / total
            out.append(Bar(state, round(x, 2), round(width, 2)))
            x += width
    return out


def tally(counts: Mapping[str, int], planned: int | None) -> str:
    """`37 of 64 trials: 35 complete, 1 pruned, 1 running`."""
    total = sum(counts.values())
    if not total:
        return "no trial" if planned is None else f"up to {_trials(planned)}"
    said = ", ".join(f"{counts[s]} {s}" for s in _BAR_ORDER if counts.get(s))
    return f"{total} of up to {_trials(planned)}: {said}" if planned and planned > total else said


def _trials(n: int) -> str:
    return "1 trial" if n == 1 else f"{n} trials"


def why(stage: StageRow) -> str:
    """What a stage found; before that, why it stands where it stands; before that, what it will do."""
    if stage.result and stage.result.get("why"):
        return str(stage.result["why"])
    if stage.reason:
        return str(stage.reason)
    return _plan(stage.spec)


def _plan(spec: Mapping[str, Any]) -> str:
    """What a stage will do, from its own words; a kind that has none here says how long it trains."""
    say = _DOES.get(spec["kind"])
    does = say(spec) if say else ""
    share = spec.get("data_fraction", 1.0)
    trains = _length(spec)
    if share != 1.0:
        trains += f" on {share:.0%} of the training set"
    if spec.get("source"):
        trains += f"; builds on {spec['source']}"
    return f"{does} {trains[0].upper()}{trains[1:]}.".strip()


def _length(spec: Mapping[str, Any]) -> str:
    """
    >>> _length({"epochs": 1}), _length({"epochs": 5, "budget": {"epochs": None, "steps": 300}})
    ('1 epoch a trial', '300 steps a trial')
    """
    budget = {unit: n for unit, n in (spec.get("budget") or {}).items() if n is not None}
    unit, n = next(iter(budget.items()), ("epochs", spec["epochs"]))
    return f"{n:g} {unit if n != 1 else unit[:-1]} a trial"


def _of(origin: str) -> str:
    return f", of {origin}" if origin else ""


_DOES: Mapping[str, Callable[[Mapping[str, Any]], str]] = {
    "preflight": lambda s: (
        "Checks of data, model, loss and costs before money is spent"
        + ("; one that fails pauses the study." if s["on_failure"] == "stop" else ".")
    ),
    "lr_range_test": lambda s: (
        f"Sweeps the rate from {s['lr_low']:g} to {s['lr_high']:g} in {s['steps']} steps or more."
    ),
    "halving": lambda s: f"{s['trials']} points, of which one in {s['keep']} goes on at each rung.",
    "coarse_grid": lambda s: (
        f"Every cell of {' × '.join(s['axes'])} once." if s.get("axes") else "Every cell once."
    ),
    "refine_grid": lambda s: f"Cells {s['factor']:g} times finer around the best {s['top']}.",
    "imported": lambda s: f"{s['trials']} trials that were run elsewhere{_of(s['origin'])}.",
    "random": lambda s: f"{s['trials']} points, {s['method']}.",
    "sampler": lambda s: f"{s['trials']} points, proposed by {s['sampler']['kind']}.",
    "weight_decay_restarts": lambda s: (
        f"One trunk to its plateau, then {len(s['values']) or 'a few'} branches that differ in {s['param']}."
    ),
    "cross_validation": lambda s: f"The best {s['top']} over the same {s['folds']} folds.",
    "final": lambda s: (
        f"The best {s['top']} from scratch with {s['seeds']} fresh seeds each, then {s['honest_seeds']} more "
        f"of the winner{', 1cycle tried on it' if s['one_cycle'] else ''}"
        f"{'; reads the test set' if s['test'] else ''}."
    ),
}


def stage(
    row: StageRow,
    planned: int | None,
    bests: Mapping[str, Best],
    time: StageTime | None = None,
    grounds: Grounds | None = None,
) -> StageView:
    """A card of the pipeline; `planned` is how many trials the stage runs at most. One that has
    ended has run what it wanted."""
    if row.state not in (StageState.PENDING, StageState.ACTIVE):
        planned = None
    return StageView(
        name=row.name,
        kind=row.kind,
        state=row.state,
        tally=tally(row.counts, planned),
        bars=bars(row.counts, planned or 0),
        best=_ranked_first(row) or bests.get(row.name),
        why=why(row),
        grounds=grounds,
        time=_takes(time) if time and row.ended_us is None else "",
        override=f"overridden by {row.override['actor']}: {row.override['reason']}" if row.override else "",
    )


def _takes(time: StageTime) -> str:
    hours = f"{time.gpu_hours:.2g} GPU-hours"
    return f"takes about {formats.duration(round(time.seconds * 1e6))}, {hours}"


def _ranked_first(row: StageRow) -> Best | None:
    """What a stage that has ended ranks first: of restarts, not the lowest value of any short branch."""
    ranking = (row.result or {}).get("ranking")
    return Best(ranking[0]["trial"], ranking[0]["value"], row.name) if ranking else None


def planned_trials(spec: Mapping[str, Any]) -> dict[str, int]:
    """By stage, how many trials it runs at most; empty if this version cannot read the study."""
    try:
        return {name: f.trials for name, f in forecast(StudySpec.from_json(spec)).items()}
    except ValidationError:
        return {}
