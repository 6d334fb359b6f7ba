"""What a comparison is asked for: what is compared, and of a chart, what of it."""

from __future__ import annotations

from dataclasses import dataclass

from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy import Connection

from tunesmith_service.column_cache import ColumnCache
from tunesmith_service.comparison import named
from tunesmith_service.comparison.lines import panels
from tunesmith_service.comparison.named import Compared, Group, OfTrial
from tunesmith_service.errors import Unprocessable

NAMES = 1000
"""Characters of what is named."""
KINDS = ("trials", "studies", "stages")


class Named(BaseModel):
    """What is compared: one of these."""

    model_config = ConfigDict(extra="forbid")

    trials: str = Field(
        default="", max_length=NAMES, description="Study id and number of each, a comma between them: "
        f"`1:55,1:48`. At most {named.MOST}.",
    )  # fmt: skip
    studies: str = Field(default="", max_length=NAMES, description="Ids of studies: `1,2`.")
    stages: str = Field(
        default="", max_length=NAMES, description="Study id and name of each stage: `1:coarse,1:refine`."
    )

    def kind(self) -> str:
        """Raises: Unprocessable unless exactly one is named."""
        given = [kind for kind in KINDS if getattr(self, kind)]
        if len(given) != 1:
            raise Unprocessable(f"name one of trials, studies or stages, got {' and '.join(given) or 'none'}")
        return given[0]


class ChartQuery(Named):
    """What a chart of a comparison shall show."""

    panel: int = Field(
        default=0, ge=0, le=named.MOST,
        description="Only those of the nth objective among what is named, from 1; 0: all.",
    )  # fmt: skip
    metric: str = Field(
        default="", max_length=128, description="curves: a metric without its split, such as `loss`."
    )
    top: int = Field(
        default=3,
        ge=0,
        le=50,
        description="curves: lines of so many of each study's or stage's best; 0: all.",
    )
    pair: str = Field(
        default="", max_length=40, description="confusion: the trial from which the first is taken away."
    )


@dataclass(frozen=True, slots=True)
class Asked:
    """A question to a view."""

    conn: Connection
    cache: ColumnCache
    project_id: int | None
    query: ChartQuery

    def trials(self) -> list[OfTrial]:
        """Those of the panel, in the colours that they have among all."""
        return self._of_panel(named.trials(self.conn, self.project_id, self.query.trials))

    def groups(self) -> list[Group]:
        """As `trials`."""
        return self._of_panel(groups_of(self.conn, self.project_id, self.query))

    def _of_panel(self, found: list[Compared]) -> list[Compared]:
        wanted = panels(found)[self.query.panel - 1 : self.query.panel]
        return [c for c in found if c.name in wanted[0].names] if wanted else found


def groups_of(conn: Connection, project_id: int | None, asked: Named) -> list[Group]:
    """The studies or stages that are named."""
    if asked.kind() == "studies":
        return named.studies(conn, project_id, asked.studies)
    return named.stages_of(conn, project_id, asked.stages)
