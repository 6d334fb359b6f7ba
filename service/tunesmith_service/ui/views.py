"""What the templates show, worked out from rows: no SQL here, and no HTML.

Rows come as `store` reads them; times are microseconds.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pydantic import ValidationError
from tunesmith_studies.findings import Finding, gravest_first
from tunesmith_studies.rates import Suggestion
from tunesmith_studies.space import Choice, Scalar
from tunesmith_studies.study import StudySpec, forecast
from tunesmith_studies.trial import StageState, StudyState, TrialState, Work

from tunesmith_service.findings import StageTime, of_stage
from tunesmith_service.store import StageRow
from tunesmith_service.trial_store import Trial
from tunesmith_service.ui import formats
from tunesmith_service.ui.curves import Mark

STATES = tuple(str(s) for s in TrialState)
_BAR_ORDER = ("complete", "pruned", "failed", "cancelled", "running", "waiting")


@dataclass(frozen=True, slots=True)
class Best:
    """The best complete trial of a study or stage."""

    number: int
    value: float
    stage: str
    params: list[tuple[str, Scalar]] = field(default_factory=list)  # those that vary


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
    time: str = ""  # how long it will take, once a preflight has measured
    override: str = ""  # who let the study go on past it, and why


@dataclass(frozen=True, slots=True)
class Found:
    """What one stage's trials showed, the gravest first."""

    stage: str
    findings: list[Finding]


def found(rows: Sequence[StageRow]) -> list[Found]:
    """By stage, in their order; stages that found nothing are left out. What was checked and is sound
    stands at the end of each."""
    by_stage = [Found(row.name, list(gravest_first(of_stage(row)))) for row in rows]
    return [each for each in by_stage if each.findings]


@dataclass(frozen=True, slots=True)
class Move:
    """A button that changes a study's state, behind a question."""

    verb: str
    label: str
    question: str
    meaning: str
    risky: bool = False


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
    row: StageRow, planned: int | None, bests: Mapping[str, Best], time: StageTime | None = None
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


def varied(spec: Mapping[str, Any]) -> list[str]:
    """Names of the hyperparameters that the study varies, in its own order."""
    return list(spec.get("space", {}))


def now(stages: Sequence[StageRow]) -> str:
    """Where a study's stages stand, in a few words."""
    active = [s.name for s in stages if s.state == StageState.ACTIVE]
    if active:
        return ", ".join(active)
    done = sum(s.state == StageState.DONE for s in stages)
    return f"all {done} done" if done == len(stages) else f"{done} of {len(stages)} done"


def moves(state: str, running: int, waiting: int, *, is_blocked: bool = False) -> list[Move]:
    """What a person may do with a study in this state; one that is blocked is overridden, not resumed."""
    pause = Move(
        "pause", "Pause…", "Pause this study?", "No new trial starts; those that run go on to their end."
    )
    resume = Move("resume", "Resume…", "Resume this study?", "Its waiting trials are handed out again.")
    stop = Move(
        "stop",
        "Stop…",
        "Stop this study for good?",
        f"Trials that run ({running}) or wait ({waiting}) are cancelled, and the stages that are left are "
        "skipped. What has been found stays. A stopped study cannot be resumed.",
        risky=True,
    )
    paused = [stop] if is_blocked else [resume, stop]
    return {StudyState.ACTIVE: [pause, stop], StudyState.PAUSED: paused}.get(StudyState(state), [])


def suggested(told: Sequence[Suggestion]) -> list[Mark]:
    """The rates that range tests suggest; what each is given for, where there are several."""
    return [
        Mark(s.lr, " ".join(["suggested", formats.number(s.lr, pad=False), *map(str, s.given.values())]))
        for s in told
    ]


# --- trials ---------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class TrialRow:
    number: int
    state: str
    stage: str
    value: float | None
    newest: float | None  # the objective's metric in the newest report
    params: Mapping[str, Scalar]
    step: int
    unit: str  # what `step` counts: epoch or step
    done: str  # such as 3/5 epochs
    progress: float | None  # percent; None where nobody can say
    time_us: int | None
    note: str
    start: Mapping[str, int] | None  # the trial and step whose snapshot it goes on from
    is_best: bool
    measures: bool  # for its stage: it has no value
    test_read: int | None  # it was the nth of its project to read the task's test split


def trial_row(row: Trial, metric: str, best: int | None, now_us: int) -> TrialRow:
    """A row of the table of trials."""
    work = Work.from_json(row.work)
    newest = (row.last_metrics or {}).get(metric)
    return TrialRow(
        number=row.number,
        state=row.state,
        stage=row.stage,
        value=row.value,
        newest=newest if isinstance(newest, float | int) else None,
        params=row.params,
        step=row.step,
        unit=work.unit,
        done=_done(row.step, work),
        progress=_progress(row, work),
        time_us=_time(row, now_us),
        note=note(row),
        start=row.start,
        is_best=row.number == best,
        measures=work.kind != "train",
        test_read=row.test_read,
    )


def _done(step: int, work: Work) -> str:
    """
    >>> _done(3, Work(5, 0)), _done(40, Work(5, 0, steps=300)), _done(40, Work(5, 0, kind="range_test"))
    ('3/5 epochs', '40/300 steps', '40 steps')
    """
    if work.unit == "epoch":
        return f"{step}/{work.epochs} epochs"
    return f"{step}/{work.steps} steps" if work.steps else f"{step} {'step' if step == 1 else 'steps'}"


def _progress(row: Trial, work: Work) -> float | None:
    """Of a trial that counts steps towards epochs, as its newest report says."""
    if work.unit == "epoch" or work.steps:
        return round(min(100 * row.step / (work.steps or work.epochs), 100), 1)
    epochs = (row.last_metrics or {}).get("sys/epoch")
    known = isinstance(epochs, float | int) and work.kind == "train" and work.seconds is None
    return round(min(100 * epochs / work.epochs, 100), 1) if known and epochs is not None else None


def _time(row: Trial, now_us: int) -> int | None:
    if row.started_us is None:
        return None
    return int((row.ended_us or now_us) - row.started_us)


_REASONS = {
    "budget": "ran to its end",
    "early_stopping": "stopped early",
    "plateau": "stopped at its plateau",
    "pruned": "pruned by comparison",
    "diverged": "diverged",
}


def note(row: Trial) -> str:
    """What is worth knowing about a trial beyond its state. A lost worker is no failure."""
    parts = []
    if row.stop_reason in _REASONS and row.stop_reason != "budget":
        parts.append(f"{_REASONS[row.stop_reason]} at {Work.from_json(row.work).unit} {row.step}")
    if row.error:
        parts.append(str(row.error.get("kind", "error")))
    if row.state == TrialState.WAITING and row.attempt:
        parts.append(f"requeued for attempt {row.attempt + 1}")
    elif row.attempt > 1:
        parts.append(f"attempt {row.attempt}")
    if row.hand:
        parts.append("by hand")
    if row.test_read is not None:
        parts.append("read the test set" if row.test_read == 1 else f"test set read no. {row.test_read}")
    if row.retry_of is not None:
        parts.append(f"again after #{row.retry_of}")
    return ", ".join(parts)


@dataclass(frozen=True, slots=True)
class Setting:
    """A hyperparameter of a trial: its value, where it lies in the space, and the best trial's."""

    name: str
    value: Scalar
    at: float | None  # percent of the parameter's own scale; None where it has none
    best: Scalar | None
    best_at: float | None
    where: str


def trial_settings(
    params: Mapping[str, Scalar], best: Mapping[str, Scalar], spec: StudySpec
) -> list[Setting]:
    """Varied hyperparameters first, in the study's order; then those that are fixed."""
    varied = [n for n in spec.space.names() if n in params]
    fixed = [n for n in params if n not in spec.space]
    out = []
    for name in varied:
        parameter = spec.space[name]
        where = f"{formats.number(params[name], pad=False)} in {parameter.shown()}"
        if isinstance(parameter, Choice):
            out.append(
                Setting(name, params[name], None, best.get(name), None, f"one of {len(parameter.values)}")
            )
            continue
        at, best_at = (_position(spec, name, p.get(name)) for p in (params, best))
        out.append(Setting(name, params[name], at, best.get(name), best_at, where))
    return out + [Setting(n, params[n], None, best.get(n), None, "fixed") for n in fixed]


def _position(spec: StudySpec, name: str, value: Any) -> float | None:
    parameter = spec.space[name]
    if value is None or not parameter.contains(value):
        return None
    return round(100 * parameter.position(value), 1)


_ENDINGS = {
    "finish": "finished",
    "retry": "failed, to be tried again",
    "preempted": "handed back: preempted",
    "shutdown": "handed back: the worker shut down",
    "expired": "lost: its lease expired",
    "reboot": "lost: its worker started anew",
    "verdict": "pruned by comparison",
}


def ending(cause: str | None, outcome: Mapping[str, Any] | None) -> str:
    """How an attempt ended: why, and what then became of the trial."""
    if cause is None:
        return "running"
    said = _ENDINGS.get(cause, cause.replace("_", " "))
    state, reason = (outcome or {}).get("state"), (outcome or {}).get("stop_reason")
    if state == TrialState.WAITING:
        return f"{said}; the trial waits again"
    if cause == "finish" and state:
        return f"{state}: {_REASONS.get(reason or '', reason)}" if reason else str(state)
    return said
