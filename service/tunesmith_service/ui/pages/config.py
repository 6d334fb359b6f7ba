"""How a study is set up: the whole of it as text, to copy or to download, and what it came to."""

from __future__ import annotations

import re
from typing import Any, Literal

from sqlalchemy import Connection
from starlette.requests import Request
from starlette.responses import Response
from tunesmith_studies.study import StudySpec

from tunesmith_service.api import shapes
from tunesmith_service.api.bytes import SAFE_HEADERS
from tunesmith_service.api.deps import ServiceDep, WhoDep
from tunesmith_service.security import Role, allow
from tunesmith_service.ui import configured, screens
from tunesmith_service.ui.pages.common import StudyId, tab
from tunesmith_service.ui.routing import router

Form = Literal["short", "whole"]

routes = router(include_in_schema=False)


@routes.get("/ui/studies/{study_id}/config")
@allow(Role.VIEWER, by="session")
async def config(
    request: Request, service: ServiceDep, who: WhoDep, study_id: StudyId, form: Form = "short"
) -> Response:
    def read(conn: Connection) -> dict[str, Any]:
        shown = screens.study(conn, who, study_id)
        return {"study": shown, "config": configured.read(conn, who, shown.row, whole=form == "whole")}

    return tab(request, who, "config.html", "config", **await service.read(read))


@routes.get("/ui/studies/{study_id}/config/export")
@allow(Role.VIEWER, by="session")
async def config_file(service: ServiceDep, who: WhoDep, study_id: StudyId, form: Form = "short") -> Response:
    """The study as a file, which `tunesmith study create -f` takes."""

    def read(conn: Connection) -> tuple[str, str]:
        study = screens.visible(conn, who, study_id)
        spec = StudySpec.from_json(shapes.whole_spec(conn, study))
        return study.name, configured.text(spec, whole=form == "whole")

    name, text = await service.read(read)
    plain = re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip("-.") or "study"
    headers = SAFE_HEADERS | {"Content-Disposition": f'attachment; filename="{plain}.yaml"'}
    return Response(text, media_type="application/yaml", headers=headers)
