"""Recipes: the stages of a study that names none, fitted to what its space can have.

`quick`, `standard` and `thorough` are orders of work of careful people; which searches they hold was
measured (docs/measured.md, search economy). A part that a space cannot have (no rate, nothing but
choices, a schedule that needs to know the length) gives way to what can be done there, or is left out.
Either is said in a note with the reason, which is the refusing stage's own.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeAlias

from pydantic import Field, TypeAdapter, model_validator

from tunesmith_studies.checked import Checked, Listed, also_written
from tunesmith_studies.stages import AnyStage

if TYPE_CHECKING:
    from tunesmith_studies.study import StudySpec

RecipeName = Literal["quick", "standard", "thorough"]

Part: TypeAlias = Sequence[Mapping[str, Any]]
"""One step of a recipe: stages as JSON, of which the first that the study can have is taken."""

_STAGE: TypeAdapter[AnyStage] = TypeAdapter(AnyStage)


class Recipe(Checked):
    """Which recipe writes a study's stages. A name alone is enough: `recipe: thorough`."""

    name: RecipeName = "standard"
    epochs: int = Field(default=20, ge=2, le=100_000, description="The most that one trial trains.")
    notes: Listed[str] | None = Field(
        default=None,
        description="What this study cannot have of the recipe, and why. Written with the stages when the "
        "study is created; a recipe with notes, even none, has written its stages.",
    )

    @model_validator(mode="before")
    @classmethod
    def _by_name(cls, data: Any) -> Any:
        return {"name": data} if isinstance(data, str) else data


Named: TypeAlias = Annotated[Recipe, also_written(RecipeName | Recipe)]


def expanded(recipe: Recipe, study: StudySpec) -> tuple[tuple[AnyStage, ...], Recipe]:
    """The stages that this recipe gives a study, and the recipe with its notes."""
    from tunesmith_studies.study import complete_stage, stage_problems  # noqa: PLC0415 - it builds on us

    stages: tuple[AnyStage, ...] = ()
    notes: list[str] = []
    for part in parts(recipe, study):
        refused: dict[str, str] = {}  # by kind, why
        for data in part:
            stage = complete_stage(_STAGE.validate_python(data), [s.name for s in stages])
            with_it = study.model_copy(update={"stages": (*stages, stage)})
            problems = stage_problems(with_it, stage, stages)
            if not problems:
                stages = (*stages, stage)
                notes += [_adapted(kind, stage.kind, why) for kind, why in refused.items()]
                break
            refused.setdefault(stage.kind, problems[0])
        else:
            notes += [f"{kind} is left out: {why}" for kind, why in refused.items()]
    return stages, recipe.model_copy(update={"notes": tuple(notes)})


def _adapted(wanted: str, taken: str, why: str) -> str:
    return f"{wanted} is simplified: {why}" if wanted == taken else f"{taken} stands in for {wanted}: {why}"


def parts(recipe: Recipe, study: StudySpec) -> list[Part]:
    """What the recipe does, in order, before it meets the study's space."""
    write = {"quick": _quick, "standard": _standard, "thorough": _thorough}[recipe.name]
    return list(write(recipe.epochs, study))


# --- the three --------------------------------------------------------------------------------------------


def _quick(epochs: int, study: StudySpec) -> Iterator[Part]:
    yield RANGE_TEST
    yield _coarse(epochs, study)
    yield _refined(epochs, top=1)
    yield [{"kind": "final", "epochs": epochs, "top": 2}]


def _standard(epochs: int, study: StudySpec) -> Iterator[Part]:
    yield PREFLIGHT
    yield RANGE_TEST
    yield _searched(epochs, {"trials": 9, "grid": 2, "rounds": 2})
    yield [{"kind": "weight_decay_restarts", "epochs": epochs}]
    yield [{"kind": "final", "epochs": epochs}]


def _thorough(epochs: int, study: StudySpec) -> Iterator[Part]:
    yield PREFLIGHT
    yield RANGE_TEST
    yield _coarse(epochs, study)
    yield _refined(epochs, top=3)
    yield from _one_by_one(epochs, study)
    yield _searched(epochs, {"trials": 27, "grid": 9, "rounds": 6, "warm_start": 1})
    yield [{"kind": "weight_decay_restarts", "epochs": epochs}]
    yield [{"kind": "cross_validation", "epochs": epochs}]
    yield [{"kind": "final", "epochs": epochs}]


PREFLIGHT: Part = [{"kind": "preflight"}]
# Seeds differ by far less than the search spreads its rates around what the test suggests.
RANGE_TEST: Part = [{"kind": "lr_range_test", "seeds": 1}]

MOMENTA = (0.9, 0.95, 0.97, 0.99)
"""What short runs at a constant rate compare (recipe §1.5)."""


def _coarse(epochs: int, study: StudySpec) -> Part:
    """Rate against weight decay for a tenth of the length, all else in its middle: around what a range test
    suggests, else on the rate's own scale. Without a rate a few quasi-random points at half the length."""
    points = {"kind": "random", "epochs": max(epochs // 2, 1), "trials": 12, "method": "sobol"}
    if "lr" not in study.space:
        return [points]
    middle = study.space.middle(study.fixed)
    decay = {"weight_decay": 3} if "weight_decay" in study.space and "weight_decay" in middle else {}
    grid: dict[str, Any] = {
        "kind": "coarse_grid",
        "epochs": max(epochs // 10, 1),
        "axes": {"lr": {}, **decay},
        "fixed": {n: v for n, v in middle.items() if n in study.space and n not in ("lr", *decay)},
        "extend": 2,
    }
    return [grid, grid | {"axes": {"lr": 4, **decay}}, points]


def _refined(epochs: int, top: int) -> Part:
    """Around the best cells, from their snapshots where the schedule allows it."""
    refined = {"kind": "refine_grid", "epochs": max(epochs // 2, 2), "top": top}
    return [{**refined, "continue_snapshots": True}, refined]


def _one_by_one(epochs: int, study: StudySpec) -> Iterator[Part]:
    """Momentum, then the batch size with its rate, around the best so far at half the length.

    Batch sizes at equal epochs: how long an equal time should be nobody knows before anything has run.
    """
    around = {"kind": "coarse_grid", "epochs": max(epochs // 2, 1), "around_best": True}
    momentum = study.space.root.get("momentum")
    if momentum is not None:
        values = [v for v in MOMENTA if momentum.contains(v)]
        yield [{**around, "name": "momentum", "axes": {"momentum": values or 4}}]
    if "batch_size" in study.space:
        yield [{**around, "name": "batch_size", "axes": {"batch_size": 4}, "scale_lr": "auto"}]


def _searched(epochs: int, halving: Mapping[str, Any]) -> Part:
    """Halving; where trials cannot be prolonged, a model with the median rule.

    Of nine points three go on to half the length and two to the end: what a third of it says of the last
    loss is little where a network begins to overfit, and one last loss alone is noise.
    """
    rungs = sorted({n for n in (max(epochs // 10, 2), epochs // 2) if 2 <= n < epochs})
    points = {"kind": "halving", "epochs": epochs, "rungs": rungs, "later": 9, "finalists": 2, **halving}
    if rungs:
        points["cooldown"] = 1 - rungs[-1] / epochs
    model = {
        "kind": "sampler", "epochs": epochs, "trials": 15, "sampler": {"kind": "tpe", "n_startup_trials": 5},
        "pruner": {"kind": "median", "n_startup_trials": 5, "n_warmup_steps": max(epochs // 10, 1)},
    }  # fmt: skip
    return [points, model]
