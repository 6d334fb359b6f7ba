"""The stages that a study may name; `kind` tells them apart."""

from typing import Annotated, TypeAlias

from pydantic import Field

from tunesmith_studies.stages.coarse_grid import CoarseGrid
from tunesmith_studies.stages.refine_grid import RefineGrid

AnyStage: TypeAlias = Annotated[
    CoarseGrid | RefineGrid,
    Field(discriminator="kind"),
]

__all__ = ["AnyStage", "CoarseGrid", "RefineGrid"]
