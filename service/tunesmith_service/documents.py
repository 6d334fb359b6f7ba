"""Views that stand in documents that trials left. Rows say which; the bytes are asked for once the connection
to the database is given back, for a store may say nothing for long."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeAlias

from sqlalchemy import Connection

from tunesmith_service.stores import Store

if TYPE_CHECKING:
    from tunesmith_service.core import Service

View: TypeAlias = dict[str, Any]
Unread: TypeAlias = Callable[[Store], View]
"""Reads the documents. Blocks."""


async def shown(service: Service, find: Callable[[Connection], View | Unread]) -> View:
    """The view that `find` finds. Raises: what both reads do."""
    found = await service.read(find)
    return await service.stored(found, service.blobs) if callable(found) else found
