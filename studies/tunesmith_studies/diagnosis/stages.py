"""What the trials of a stage show together."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence

from tunesmith_studies.diagnosis.beyond import proposed
from tunesmith_studies.diagnosis.errors import decomposed, levels_of
from tunesmith_studies.diagnosis.shapes import wobble
from tunesmith_studies.diagnosis.trials import of_trial
from tunesmith_studies.findings import Finding, gravest_first
from tunesmith_studies.planning import History, StageResult
from tunesmith_studies.space import Choice, Float, Int, Scalar
from tunesmith_studies.stages.base import Stage
from tunesmith_studies.stages.border import Side
from tunesmith_studies.trial import Trial, TrialState

MANY_INFEASIBLE = 0.5
EDGE = 0.10  # of a range on its own scale
TOP = 3
FEWEST_TRIALS = 4
FEWEST_VALUES = 3  # of an axis before its ends mean anything
NOISE_POINTS = 5
NOISES = 2.0  # a lead of so many spreads of the curves is none


def of_stage(stage: Stage, history: History, result: StageResult) -> tuple[Finding, ...]:
    """What a finished stage's trials show, the gravest first; nothing of a stage that only measures.

    Sources: "Deep Learning Tuning Playbook" (Godbole et al. 2023) for best values on a border, infeasible
        trials and the noise of a selection; EECS 498/598 lecture 11 for the rest; thresholds of the recipe.
    """
    trials = tuple(t for t in history.trials if t.work.kind == "train" and t.state.is_finished)
    if not trials:
        return ()
    by_number = {t.number: t for t in trials}
    ranked = [by_number[r.trial] for r in result.ranking if r.trial in by_number]
    values = {r.trial: r.value for r in result.ranking}
    chance = _chance(history)
    found = [
        *_infeasible(trials, ranked),
        *_failed(trials),
        *_edges(stage, history, result, ranked),
        *_noise(history, ranked, values),
        *_of_the_best(history, ranked, chance),
        *_errors(history, ranked),
    ]
    return gravest_first(found)


def _chance(history: History) -> float | None:
    """Loss of a constant prediction, as an earlier preflight measured it."""
    for earlier in history.earlier.values():
        value = earlier.result.chosen.get("prior_entropy")
        if isinstance(value, int | float):
            return float(value)
    return None


# --- infeasible and failed ----------------------------------------------------------------------------


def _infeasible(trials: Sequence[Trial], ranked: Sequence[Trial]) -> Iterator[Finding]:
    diverged = [t for t in trials if t.is_diverged]
    if len(trials) < FEWEST_TRIALS or len(diverged) < MANY_INFEASIBLE * len(trials):
        return
    rates = sorted(float(lr) for t in diverged if isinstance(lr := t.params.get("lr"), float | int))
    fine = [
        float(lr) for t in trials if not t.is_diverged and isinstance(lr := t.params.get("lr"), float | int)
    ]
    above = ""
    if rates and fine and rates[0] > max(fine):
        above = f" Every rate from {rates[0]:.3g} up diverged, none below did."
    yield Finding(
        "many_infeasible",
        "warn",
        f"{len(diverged)} of {len(trials)} trials diverged.{above}",
        f"at least {MANY_INFEASIBLE:.0%} of {FEWEST_TRIALS} or more trials",
        "Lower the range of rates, clip the gradient (clip_norm: 1), or warm up: a best value beside the "
        "rates that diverge is a question of stability, not of the space.",
        {
            "diverged": len(diverged),
            "trials": len(trials),
            "lowest_diverged_rate": rates[0] if rates else None,
        },
        tuple(t.number for t in diverged[:20]),
    )


def _failed(trials: Sequence[Trial]) -> Iterator[Finding]:
    failed = [t for t in trials if t.state is TrialState.FAILED]
    if failed:
        yield Finding(
            "failed_trials",
            "warn",
            f"{len(failed)} of {len(trials)} trials failed, so their part of the space was not looked at.",
            "any",
            "Look at their errors, repair what they say, and try them again.",
            {"failed": len(failed), "trials": len(trials)},
            tuple(t.number for t in failed[:20]),
        )


# --- the best on an edge ------------------------------------------------------------------------------


def _edges(stage: Stage, history: History, result: StageResult, ranked: Sequence[Trial]) -> Iterator[Finding]:
    axes: Mapping[str, Sequence[Scalar]] = result.chosen.get("axes") or {}
    space = history.study.space.widened(result.chosen.get("widened") or {})  # where the best may lie
    for name, parameter in space.items():
        if isinstance(parameter, Choice) or not ranked or name not in ranked[0].params:
            continue
        values = sorted({float(v) for t in ranked if isinstance(v := t.params.get(name), float | int)})
        if len(values) < FEWEST_VALUES or (name not in axes and len(ranked) < FEWEST_TRIALS):
            continue
        best = float(ranked[0].params[name])
        side = _side(best, parameter.position(best), values if name in axes else ())
        if side is None or best == 0 or _is_within(stage, name, parameter, side):  # nothing lies below 0
            continue
        word = "largest" if side == "high" else "smallest"
        of = "values tried" if name in axes else f"range {parameter.shown()}"
        yield Finding(
            "best_at_edge",
            "warn",
            f"The best {name}, {best:.4g}, is among the {word} of the {of}, so better ones may lie beyond.",
            f"an end of a grid, or the outer {EDGE:.0%} of a range on its own scale",
            f"Widen {name} on that side, unless trials there diverge.",
            {"parameter": name, "best": best, "side": side, "tried": values[:50]},
            (ranked[0].number,),
            proposed(
                stage,
                ranked[0],
                history.trials,
                name=name,
                parameter=parameter,
                side=side,
                grid=values if name in axes else (),
            ),
        )


def _is_within(stage: Stage, name: str, parameter: Float | Int, side: Side) -> bool:
    """Whether that end of the stage's own range lies within the space: others have looked beyond it."""
    if name not in stage.ranges:
        return False
    low, high = stage.ranges[name]
    return low > parameter.low if side == "low" else high < parameter.high


def _side(best: float, position: float, grid: Sequence[float]) -> Side | None:
    if grid:
        if math.isclose(best, grid[-1]):
            return "high"
        return "low" if math.isclose(best, grid[0]) else None
    if position >= 1 - EDGE:
        return "high"
    return "low" if position <= EDGE else None


# --- noise --------------------------------------------------------------------------------------------


def _noise(history: History, ranked: Sequence[Trial], values: Mapping[int, float]) -> Iterator[Finding]:
    """Whether the order of the best means anything against the wobble of their own curves."""
    ranked = [t for t in ranked if t.work.epochs == ranked[0].work.epochs]  # lengths are not compared
    if len(ranked) < TOP:
        return
    metric = history.study.objective.metric
    moves = [w for t in ranked[:TOP] if (w := _wobble([v for _, v in t.metric(metric)])) is not None]
    if not moves:
        return
    noise = math.sqrt(math.fsum(w * w for w in moves) / len(moves))
    best = values[ranked[0].number]
    tied = [t for t in ranked if abs(values[t.number] - best) < NOISES * noise]
    gap = abs(values[ranked[1].number] - best)
    if len(tied) < 2:
        return
    lead = f"the first leads the second by {gap:.2g}" if gap else "the first two are equal"
    yield Finding(
        "ties_within_noise",
        "info",
        f"The best {len(tied)} trials are within {NOISES * noise:.2g} of the first in {metric}, and their "
        f"own curves still move by {noise:.2g}; {lead}.",
        f"sd over the last {NOISE_POINTS} points above half of the lead",
        "Do not read much into their order: take the cheaper, or train them again with other seeds (final).",
        {"noise": noise, "lead": gap, "tied": len(tied)},
        tuple(t.number for t in tied[:20]),
    )


def _wobble(values: Sequence[float]) -> float | None:
    """Spread of the last points around their line; None of too few."""
    last = values[-NOISE_POINTS:]
    if len(last) < NOISE_POINTS or not all(math.isfinite(v) for v in last):
        return None
    return wobble(last)


# --- what the best show -------------------------------------------------------------------------------

_TOLD_OF_THE_BEST = (
    "overfit",
    "underfit",
    "validation_better",
    "training_rises",
    "rate_too_low",
    "rate_too_high",
)


def _of_the_best(history: History, ranked: Sequence[Trial], chance: float | None) -> Iterator[Finding]:
    """Of the best trial what is wrong with it; of the best three that all were cut short."""
    top = {t.number: of_trial(t, history.study, chance=chance) for t in ranked[:TOP]}
    if not top:
        return
    first = ranked[0].number
    for finding in top[first]:
        if finding.kind in _TOLD_OF_THE_BEST:
            sentence = f"The best trial, {first}: {finding.sentence[:1].lower()}{finding.sentence[1:]}"
            yield Finding(
                finding.kind,
                finding.level,
                sentence,
                finding.rule,
                finding.next_step,
                finding.numbers,
                (first,),
            )
    cut_short = [n for n, found in top.items() if any(f.kind == "still_improving" for f in found)]
    if len(top) == TOP and len(cut_short) == TOP:
        yield Finding(
            "compute_bound",
            "info",
            f"The best {TOP} trials were all still getting better when their budget ended.",
            "each gained more than 2 % over its last fifth",
            "Longer training may change their order.",
            {},
            tuple(cut_short),
        )


def _errors(history: History, ranked: Sequence[Trial]) -> Iterator[Finding]:
    """Where the error comes from, once a target or a test split can be set beside it."""
    if ranked:
        found = decomposed(levels_of(ranked[0], history), history.study.objective)
        if found is not None:
            yield found
