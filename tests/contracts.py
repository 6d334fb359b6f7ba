"""One suite that every stage passes, one for every sampler, one for every pruner."""

from __future__ import annotations

import math
import random
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import optuna
from tunesmith_studies.log import Entry, StudyLog
from tunesmith_studies.planning import Done, History, Plan, Proposal, Proposals, Seed, Wait
from tunesmith_studies.pruners import _build as build_pruner
from tunesmith_studies.pruners import should_prune
from tunesmith_studies.samplers import SamplerSpec, distribution, from_optuna
from tunesmith_studies.space import Params, Space
from tunesmith_studies.study import StudySpec
from tunesmith_studies.trial import Trial, Work

# --- a study in the small: what service and workers do to a log, without either -------------------------

Ending = tuple[str, str]
COMPLETE: Ending = ("complete", "budget")
ENDINGS: tuple[Ending, ...] = (
    COMPLETE,
    ("pruned", "pruned"),
    ("pruned", "diverged"),
    ("failed", "error"),
    ("cancelled", "cancelled"),
)


def bowl(params: Params, epoch: int) -> float:
    """A loss that falls with the epochs; best at lr 0.03, weight decay 1e-4, and a little dropout."""
    lr, decay = float(params.get("lr", 0.03)), float(params.get("weight_decay", 1e-4))
    miss = (math.log10(lr) + 1.5) ** 2 + 0.1 * (math.log10(decay + 1e-6) + 4) ** 2
    miss += (float(params.get("dropout", 0.1)) - 0.1) ** 2
    return 0.1 + miss + 1.0 / epoch


class Runner:
    """Drives a study's stages in order through its log, as planner, service and workers would."""

    def __init__(
        self,
        spec: StudySpec,
        objective: Callable[[Params, int], float] = bowl,
        measures: Callable[[Trial], Sequence[Mapping[str, float]]] | None = None,
    ) -> None:
        """`measures`: what a trial that measures reports, a table a point; else it reports the objective."""
        self.spec = spec
        self.measures = measures
        self.log = StudyLog(spec.to_json())
        self.entries: list[Entry] = []
        self.objective = objective
        self.seed = Seed(spec.seed)
        self._next = 0
        self._hands = 0

    def put(self, kind: str, *, trial: int | None = None, stage: str | None = None, **data: Any) -> None:
        entry = Entry(self.log.at + 1, kind, trial, stage, data)  # type: ignore[arg-type]
        self.log.apply(entry)
        self.entries.append(entry)

    def activate(self, stage: str) -> None:
        self.put("stage", stage=stage, state="active")

    def ask(self, stage: str, n: int) -> Plan:
        return self.log.stage(stage).plan(self.log.history(stage), n, self.seed)

    def queue(self, stage: str, proposal: Proposal, *, draft: bool = False) -> int:
        number, self._next = self._next, self._next + 1
        self.put(
            "planned",
            trial=number,
            stage=stage,
            key=proposal.key,
            ordinal=proposal.ordinal,
            params=dict(proposal.params),
            work=proposal.work.to_json(),
            start=proposal.start.to_json() if proposal.start else None,
            sampler_state=dict(proposal.sampler_state),
            planned_at=self.log.at,
            draft=draft,
        )
        return number

    def enqueue(self, stage: str, params: Params) -> int:
        self._hands += 1
        work = Work(epochs=self.log.stage(stage).epochs, seed=1)
        ordinal = len(self.log.trials(stage))
        return self.queue(stage, Proposal(f"hand:{self._hands}", ordinal, params, work))

    def start(self, number: int) -> None:
        trial = self.log.trial(number)
        resumed = trial.start.step if trial.start else 0
        self.put("moved", trial=number, **{"from": "waiting"}, to="running", attempt=1, resume_step=resumed)

    def end(self, number: int, ending: Ending = COMPLETE, *, epochs: int | None = None) -> None:
        """Report the rest of a running trial's curve, then end it; `epochs` cuts it short."""
        trial = self.log.trial(number)
        state, reason = ending
        first = (trial.start.step if trial.start else 0) + 1
        last = epochs or (trial.work.epochs if state == "complete" else first)
        points = [
            {"step": e, "metrics": {"val/loss": self.objective(trial.params, e)}}
            for e in range(first, last + 1)
        ]
        if self.measures is not None and trial.work.kind != "train":
            tables = self.measures(trial)[: None if state == "complete" else 1]
            points = [{"step": i, "metrics": dict(table)} for i, table in enumerate(tables, start=1)]
        if reason == "diverged":
            points[-1]["metrics"] = {"val/loss": "NaN"}
        if points:
            self.put("reported", trial=number, attempt=1, seq=1, points=points)
        if state == "complete" and trial.work.keep_snapshot:
            self.put("snapshot", trial=number, step=last, attempt=1)
        trains = trial.work.kind == "train"
        value = points[-1]["metrics"]["val/loss"] if state == "complete" and trains else None
        self.put(
            "moved", trial=number, **{"from": "running"}, to=state, attempt=1, stop_reason=reason, value=value
        )

    def finish_stage(self, stage: str, done: Done) -> None:
        self.put(
            "stage",
            stage=stage,
            state="failed" if done.result.failed else "done",
            result=done.result.to_json(),
        )

    def run(
        self,
        stage: str,
        *,
        slots: int = 2,
        ending: Callable[[Trial], Ending] = lambda trial: COMPLETE,
        check: Callable[[History, int, Plan], None] = lambda history, n, plan: None,
        most: int = 2000,
    ) -> Done:
        """Run one stage to its end. Fails if it is not over after `most` trials."""
        self.activate(stage)
        live: list[int] = []
        while True:
            stale = {t.key: t for t in self.log.stale(stage)}
            room = slots - len(live) + len(stale)
            plan = self.ask(stage, max(room, 1))
            check(self.log.history(stage), max(room, 1), plan)
            if isinstance(plan, Done):
                self.finish_stage(stage, plan)
                return plan
            if isinstance(plan, Proposals):
                assert plan.items, "Proposals with nothing in them"
                for proposal in plan.items:
                    if proposal.key in stale:
                        self.redraw(stale[proposal.key], proposal)
                    else:
                        live.append(self.queue(stage, proposal, draft=plan.draft))
                        self.start(live[-1])
                        assert self._next <= most, f"{stage} is not over after {most} trials"
            else:
                assert live, f"{stage} waits for nothing: {plan.reason}"
            if live and (len(live) >= slots or isinstance(plan, Wait)):
                number = live.pop(0)
                self.end(number, ending(self.log.trial(number)))

    def redraw(self, draft: Trial, proposal: Proposal) -> None:
        self.put(
            "redrawn",
            trial=draft.number,
            params=dict(proposal.params),
            sampler_state=dict(proposal.sampler_state),
            planned_at=self.log.at,
            old_params=dict(draft.params),
            old_planned_at=draft.planned_at,
        )


def check_plan(spec: StudySpec, stage: str) -> Callable[[History, int, Plan], None]:
    """The stage contract for one answer: the same again, a prefix of a longer one, no key twice."""
    seed = Seed(spec.seed)

    def check(history: History, n: int, plan: Plan) -> None:
        again = next(s for s in history.study.stages if s.name == stage).plan(history, n, seed)
        assert again == plan, "the same history gave another answer"
        if not isinstance(plan, Proposals):
            return
        longer = next(s for s in history.study.stages if s.name == stage).plan(history, n + 3, seed)
        assert isinstance(longer, Proposals)
        assert longer.items[: len(plan.items)] == plan.items, (
            "a longer answer does not begin with the shorter"
        )
        keys = [p.key for p in longer.items]
        assert len(set(keys)) == len(keys), "one answer holds a key twice"
        assert not set(keys) & history.keys, "a key of the history was proposed again"

    return check


# --- samplers: live in Optuna against rebuilt from rows ---------------------------------------------------


def live_against_rebuilt(
    spec: SamplerSpec, space: Space, study: StudySpec, *, trials: int, slots: int = 3, seed: int = 0
) -> list[tuple[Params, Params]]:
    """Ask Optuna and our stage for the same trials with the same results; both answers for each.

    Live is an Optuna study that lives through the whole search, asked, told and reported to. The
    sampler object is new for each trial on both sides, with the seed of its ordinal, as it is in
    service; all that it knows must therefore come from the study.
    """
    stage = study.stages[-1].name
    runner, rng = Runner(study), random.Random(seed)
    runner.activate(stage)
    live = optuna.create_study(study_name=f"{study.name}/{stage}", pruner=optuna.pruners.NopPruner())
    pairs: list[tuple[Params, Params]] = []
    running: dict[int, Any] = {}
    for ordinal in range(trials):
        plan = runner.ask(stage, 1)
        assert isinstance(plan, Proposals)
        (ours,) = plan.items
        live.sampler = _live_sampler(spec, Seed(study.seed).stream(stage, ordinal))
        asked = live.ask()
        theirs = _ask_live(asked, space)
        pairs.append(({n: ours.params[n] for n in theirs}, theirs))
        number = runner.queue(stage, ours)  # no draft: a live study cannot redraw
        runner.start(number)
        running[number] = asked
        if len(running) == slots:
            done = rng.choice(sorted(running))
            _end_both(runner, live, done, running.pop(done), rng)
    return pairs


def _live_sampler(spec: SamplerSpec, seed: int) -> optuna.samplers.BaseSampler:
    made: optuna.samplers.BaseSampler = getattr(optuna.samplers, spec.optuna_name)(
        seed=seed, **spec.options()
    )
    return made


def _ask_live(trial: optuna.Trial, space: Space) -> Params:
    params: dict[str, Any] = {}
    for name in space.order():
        parameter = space[name]
        if all(params.get(other) in wanted for other, wanted in parameter.when.items()):
            params[name] = from_optuna(parameter, trial._suggest(name, distribution(parameter)))
    return params


def _end_both(
    runner: Runner, live: optuna.Study, number: int, asked: optuna.Trial, rng: random.Random
) -> None:
    ending = rng.choices([COMPLETE, ("pruned", "pruned"), ("failed", "error")], [8, 2, 1])[0]
    runner.end(number, ending)
    ours = runner.log.trial(number)
    for step, value in ours.metric("val/loss"):
        asked.report(value, step)
    if ending[0] == "complete":
        live.tell(asked, ours.value)
    else:
        state = optuna.trial.TrialState.PRUNED if ending[0] == "pruned" else optuna.trial.TrialState.FAIL
        live.tell(asked, state=state)


# --- pruners: live in Optuna against rebuilt from curves --------------------------------------------------


def verdicts_live_and_rebuilt(
    study: StudySpec, curves: list[list[float]], *, slots: int = 4, seed: int = 0
) -> list[tuple[int, int, bool, bool]]:
    """(trial, step, live verdict, rebuilt verdict) for each point of interleaved trials.

    A trial ends pruned when live says so, else complete at the end of its curve.
    """
    stage, rng = study.stages[-1], random.Random(seed)
    pruner = stage.pruner
    assert pruner is not None
    runner = Runner(study)
    runner.activate(stage.name)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        asked = build_pruner(pruner)
    live = optuna.create_study(
        study_name=f"{study.name}/{stage.name}", pruner=asked, direction=study.objective.direction
    )
    todo = dict(enumerate(curves))
    running: dict[int, Any] = {}
    found: list[tuple[int, int, bool, bool]] = []
    while todo or running:
        while todo and len(running) < slots:
            ordinal = min(todo)
            number = runner.queue(
                stage.name,
                Proposal(f"point:{ordinal}", ordinal, {"lr": 0.1}, Work(len(todo[ordinal]), seed=0)),
            )
            runner.start(number)
            running[number] = (live.ask(), iter(enumerate(todo.pop(ordinal), start=1)))
        number = rng.choice(sorted(running))
        trial, points = running[number]
        step, value = next(points, (0, 0.0))
        if step == 0:
            last = runner.log.trial(number).curve[-1].metrics["val/loss"]
            if math.isfinite(last):
                live.tell(trial, last)
                _move(runner, number, "complete", "budget", last)
            else:
                live.tell(trial, state=optuna.trial.TrialState.PRUNED)
                _move(runner, number, "pruned", "diverged", None)
            del running[number]
            continue
        shown = value if math.isfinite(value) else str(value).replace("nan", "NaN").replace("inf", "Infinity")
        runner.put(
            "reported",
            trial=number,
            attempt=1,
            seq=step,
            points=[{"step": step, "metrics": {"val/loss": shown}}],
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            trial.report(value, step)
            theirs = trial.should_prune()
        history = runner.log.history(stage.name)
        ours = should_prune(pruner, history, runner.log.trial(number), Seed(study.seed))
        found.append((number, step, theirs, ours))
        if theirs:
            live.tell(trial, state=optuna.trial.TrialState.PRUNED)
            _move(runner, number, "pruned", "pruned", None)
            del running[number]
    return found


def _move(runner: Runner, number: int, state: str, reason: str, value: float | None) -> None:
    runner.put(
        "moved", trial=number, **{"from": "running"}, to=state, attempt=1, stop_reason=reason, value=value
    )
