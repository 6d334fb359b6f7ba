"""Trials as files: what a filter picks, in the columns that were chosen."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from typing import Annotated, Any

from fastapi import APIRouter, Query
from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy import Connection
from starlette.responses import StreamingResponse

from tunesmith_service import store, trial_store
from tunesmith_service.api.bytes import SAFE_HEADERS
from tunesmith_service.api.deps import ServiceDep, StudyDep, problem
from tunesmith_service.core import Service
from tunesmith_service.errors import Unprocessable
from tunesmith_service.filters import MOST_CHARACTERS
from tunesmith_service.routing import router
from tunesmith_service.security import Role, allow
from tunesmith_service.sheet_files import MOST_PRINTED, WRITERS, Format
from tunesmith_service.sheets import Cell, Column, Sheet

CHUNK = 1000
"""Trials that are read at a time."""
PRINTED = ("markdown", "latex")

routes: APIRouter = router(prefix="/studies/{study}/trials", tags=["trials"])


class Asked(BaseModel):
    """Which trials to write, and how."""

    model_config = ConfigDict(extra="forbid")

    format: Format = Field(
        default="csv", description="csv and parquet in full; markdown and latex for a text, rounded."
    )
    filter: str = Field(
        default="", max_length=MOST_CHARACTERS, description="Only those that it picks; see docs/filters.md."
    )
    sort: str = Field(
        default="number", max_length=129, description="A name that filters know; `-`: downwards."
    )
    columns: str = Field(
        default="",
        max_length=8000,
        description="Names that filters know, a comma between them; default: what the dashboard shows.",
    )


_CONTENT = {"schema": {"type": "string", "format": "binary"}}
_ANSWER: dict[int | str, dict[str, Any]] = {200: {"description": "The file.", "content": {
    "text/csv": {"schema": {"type": "string"}, "example": "number,val/loss,lr\r\n4,0.353,0.03\r\n"},
    "application/vnd.apache.parquet": _CONTENT,
    "text/markdown": {"schema": {"type": "string"}},
    "text/x-tex": {"schema": {"type": "string"}},
}}}  # fmt: skip


@routes.get("/export", responses=problem(404, 422) | _ANSWER, response_class=StreamingResponse)
@allow(Role.VIEWER)
async def export_trials(
    study: StudyDep, service: ServiceDep, asked: Annotated[Asked, Query()]
) -> StreamingResponse:
    """A study's trials as a file: CSV, Parquet, or a table for Markdown or LaTeX."""
    return await written(service, study, asked)


async def written(service: Service, study: store.Study, asked: Asked) -> StreamingResponse:
    """The file, sent as it is read. Raises: Unprocessable."""

    def plan(conn: Connection) -> tuple[Sheet, list[Column], list[int]]:
        sheet = Sheet(conn, study)
        numbers = trial_store.numbers(conn, study, filter=asked.filter, sort=asked.sort)
        return sheet, sheet.chosen(asked.columns), numbers

    sheet, columns, numbers = await service.read(plan)
    if asked.format in PRINTED and len(numbers) > MOST_PRINTED:
        raise Unprocessable(
            f"nobody reads {len(numbers)} rows; filter down to {MOST_PRINTED} or fewer, or ask for csv"
        )
    writer = WRITERS[asked.format](columns)

    def rows(conn: Connection, some: list[int]) -> list[list[Cell]]:
        return [sheet.row(t, columns) for t in trial_store.numbered(conn, study.id, some)]

    async def chunks() -> AsyncIterator[bytes]:
        yield writer.begin()
        for at in range(0, len(numbers), CHUNK):
            yield writer.rows(await service.read(rows, numbers[at : at + CHUNK]))
        yield writer.end()

    name = re.sub(r"[^A-Za-z0-9._-]+", "-", study.name).strip("-.") or "study"
    file = f'attachment; filename="{name}-trials.{writer.suffix}"'
    return StreamingResponse(
        chunks(), media_type=writer.media_type, headers={**SAFE_HEADERS, "Content-Disposition": file}
    )
