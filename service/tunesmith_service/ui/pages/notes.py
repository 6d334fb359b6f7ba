"""A study's note: plain text that people edit, and both texts when two have edited it at once."""

from __future__ import annotations

import re
from typing import Any

from markupsafe import Markup, escape
from sqlalchemy import Connection
from starlette.requests import Request
from starlette.responses import Response

from tunesmith_service import store
from tunesmith_service.api.deps import ServiceDep, WhoDep
from tunesmith_service.errors import Changed, Unprocessable
from tunesmith_service.parsing import whole_number
from tunesmith_service.security import Role, Who, allow
from tunesmith_service.ui import screens
from tunesmith_service.ui.pages.common import StudyId, fields, page, tab
from tunesmith_service.ui.routing import router
from tunesmith_service.wishes import WriteNote

NOTE_CHARACTERS = 20_000
NOTE_BYTES = 262_144
"""Of a form; each character percent-encoded in four bytes fits."""

_LINK = re.compile(r"https?://[^\s<>\"']+[^\s<>\"'.,;:!?)\]]")

routes = router(include_in_schema=False)


def linked(text: str) -> Markup:
    """Text as it is, with its web addresses as links; the page keeps its line breaks.

    >>> linked("see https://a.org/x?y=1. <b>")
    Markup('see <a href="https://a.org/x?y=1" rel="noopener noreferrer">https://a.org/x?y=1</a>. &lt;b&gt;')
    """
    out, at = Markup(), 0
    for found in _LINK.finditer(text):
        link = Markup('<a href="{0}" rel="noopener noreferrer">{0}</a>').format(found[0])
        out += escape(text[at : found.start()]) + link
        at = found.end()
    return out + escape(text[at:])


@routes.get("/ui/studies/{study_id}/notes")
@allow(Role.VIEWER, by="session")
async def notes(request: Request, service: ServiceDep, who: WhoDep, study_id: StudyId) -> Response:
    def read(conn: Connection) -> dict[str, Any]:
        shown = screens.study(conn, who, study_id)
        return {"study": shown} | _shown(who, store.note(conn, study_id))

    return tab(request, who, "notes.html", "notes", **await service.read(read))


def _shown(who: Who, note: store.Note, *, mine: str | None = None, saved: bool = False) -> dict[str, Any]:
    """
    Args:
        mine: what this person wrote while somebody else saved `note`.
    """
    may_write = who.may(Role.RESEARCHER)
    return {"note": note, "linked": linked(note.text), "mine": mine, "saved": saved, "may_write": may_write}


@routes.post("/ui/studies/{study_id}/notes")
@allow(Role.RESEARCHER, by="session")
async def write_note(request: Request, service: ServiceDep, who: WhoDep, study_id: StudyId) -> Response:
    """The part of the page with the note in it; a late edit gets both texts, to put together."""
    shown = await service.read(screens.study, who, study_id)
    sent = await fields(request, service, limit=NOTE_BYTES)
    text = sent.get("text", "").replace("\r\n", "\n")
    version = whole_number(sent.get("version", ""))
    if len(text) > NOTE_CHARACTERS or version is None:
        raise Unprocessable(f"A note has at most {NOTE_CHARACTERS:,} characters; this one has {len(text):,}.")
    try:
        newest = await service.writer.submit(WriteNote(study_id, text, version, who.actor))
        context = _shown(who, store.Note(text, newest), saved=True)
    except Changed as changed:
        now = changed.outcome or {}
        context = _shown(who, store.Note(str(now["text"]), int(now["version"])), mine=text)
    return page(request, who, "parts/note.html", study=shown, **context)
