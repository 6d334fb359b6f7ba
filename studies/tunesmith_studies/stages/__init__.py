"""The stages that a study may name; `kind` tells them apart."""

from typing import Annotated, TypeAlias

from pydantic import Field

from tunesmith_studies.stages.coarse_grid import CoarseGrid
from tunesmith_studies.stages.cross_validation import CrossValidation
from tunesmith_studies.stages.final import Final
from tunesmith_studies.stages.halving import Halving
from tunesmith_studies.stages.imported import Imported
from tunesmith_studies.stages.lr_range_test import LrRangeTest
from tunesmith_studies.stages.preflight import Preflight
from tunesmith_studies.stages.random import Random
from tunesmith_studies.stages.refine_grid import RefineGrid
from tunesmith_studies.stages.sampler import Sampler
from tunesmith_studies.stages.weight_decay_restarts import WeightDecayRestarts

AnyStage: TypeAlias = Annotated[
    Preflight
    | LrRangeTest
    | CoarseGrid
    | RefineGrid
    | Halving
    | Random
    | Sampler
    | WeightDecayRestarts
    | CrossValidation
    | Final
    | Imported,
    Field(discriminator="kind"),
]

__all__ = [
    "AnyStage",
    "CoarseGrid",
    "CrossValidation",
    "Final",
    "Halving",
    "Imported",
    "LrRangeTest",
    "Preflight",
    "Random",
    "RefineGrid",
    "Sampler",
    "WeightDecayRestarts",
]
