"""A study as the form for a new one shows it, for a clone: as fields, or as text where they cannot say it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import yaml
from pydantic import ValidationError
from tunesmith_studies.differences import differences
from tunesmith_studies.findings import Finding
from tunesmith_studies.stages.coarse_grid import CoarseGrid
from tunesmith_studies.study import StudySpec, free_name
from tunesmith_studies.written import short

from tunesmith_service.cli import study_file
from tunesmith_service.ui.study_form import LIMITS, Form, word


def begun(original: StudySpec, spec: StudySpec, taken: set[str]) -> Form:
    """The form for a clone.

    Args:
        original: what the difference is told to.
        spec: what the clone begins with, under any name.
        taken: names of studies that there are.
    """
    name = free_name(original.name, taken)
    base, wanted = short(original), spec.to_json() | {"name": name}
    fields = Form(_fields(spec) | {"name": name, "mode": "fields"}, base=base)
    try:
        is_said = not differences(wanted, StudySpec.model_validate(fields.specification()).to_json())
    except ValidationError:
        is_said = False
    if is_said and not fields.wrong:
        return fields
    text = study_file.written(short(spec) | {"name": name})
    return Form({**fields.values, "mode": "yaml", "yaml": text}, base=base)


def extended(spec: StudySpec, stage: str, finding: Finding) -> StudySpec:
    """The study with room beyond the edge that was found: in its space, and where the stage names the values
    of that axis also there."""
    ranges: Mapping[str, Any] = (finding.proposes or {}).get("ranges", {})
    stages = [_with_end(s, spec, ranges) if s.name == stage else s for s in spec.stages]
    return spec.model_copy(update={"space": spec.space.widened(ranges), "stages": tuple(stages)})


def _with_end(stage: Any, spec: StudySpec, ranges: Mapping[str, Any]) -> Any:
    if not isinstance(stage, CoarseGrid):
        return stage
    axes = dict(stage.axes)
    for name, ends in ranges.items():
        values = axes.get(name)
        if isinstance(values, tuple):
            new = [spec.space[name].cast(v) for v in ends if v not in values and not _is_between(v, values)]
            axes[name] = tuple(sorted({*values, *new}))
    return stage.model_copy(update={"axes": axes})


def _is_between(value: float, values: tuple[Any, ...]) -> bool:
    return bool(min(values) < value < max(values))


def _fields(spec: StudySpec) -> dict[str, str]:
    data = spec.to_json()
    values = {
        "task": data["task"],
        "metric": data["objective"]["metric"],
        "direction": data["objective"]["direction"],
        "seed": str(data["seed"]),
    }
    for i, (name, parameter) in enumerate(data["space"].items()):
        at = f"space.{i}."
        values |= {f"{at}name": name, f"{at}kind": parameter["type"]}
        if parameter["type"] == "choice":
            values[f"{at}values"] = ", ".join(word(v) for v in parameter["values"])
        else:
            values |= {f"{at}{end}": word(parameter[end]) for end in ("low", "high")}
            values |= {f"{at}{word}": "on" for word in ("log", "zero") if parameter.get(word)}
    for i, (name, value) in enumerate(data["fixed"].items()):
        values |= {f"fixed.{i}.name": name, f"fixed.{i}.value": word(value)}
    for name in LIMITS:
        if (limit := data["limits"][name]) is not None:
            values[name] = limit.removesuffix("Z")[:16] if name == "deadline" else word(limit)
    return values | _plan(spec)


def _plan(spec: StudySpec) -> dict[str, str]:
    """Who writes the stages: the recipe, as long as it would write just these."""
    stages = yaml.safe_dump(short(spec)["stages"], sort_keys=False, default_flow_style=None, width=100)
    values = {"plan": "stages", "stages": stages, "recipe": "standard"}
    if spec.recipe is None:
        return values
    recipe = {"name": spec.recipe.name, "epochs": spec.recipe.epochs}
    data = spec.to_json() | {"recipe": recipe, "stages": []}
    if differences(spec.to_json(), StudySpec.model_validate(data).to_json()):
        return values
    return values | {"plan": "recipe", "recipe": spec.recipe.name, "recipe_epochs": str(spec.recipe.epochs)}
