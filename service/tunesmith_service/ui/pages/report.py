"""A study's report, as a download."""

from __future__ import annotations

from starlette.responses import Response

from tunesmith_service import study_report
from tunesmith_service.api import reports
from tunesmith_service.api.deps import ServiceDep, WhoDep
from tunesmith_service.security import Role, allow
from tunesmith_service.ui import screens
from tunesmith_service.ui.pages.common import StudyId
from tunesmith_service.ui.routing import router

routes = router(include_in_schema=False)


@routes.get("/ui/studies/{study_id}/report")
@allow(Role.VIEWER, by="session")
async def report(
    service: ServiceDep, who: WhoDep, study_id: StudyId, format: study_report.Format = "html"
) -> Response:
    study = await service.read(screens.visible, who, study_id)
    return await reports.file(service, who, study, format)
