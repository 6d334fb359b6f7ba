"""What a request is worth, told from its first line and its token's looks: before it is routed, before its
body is read, and before the database is asked who sent it.

Routes declare it with their policy (`security.Policy.priority`); this looks it up. Above DASHBOARD it takes a
token that this server knows in memory, so strangers get no further than that, and no reserved place.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any

from fastapi.routing import iter_route_contexts
from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.types import Scope

from tunesmith_service.places import Place, Places, Priority
from tunesmith_service.security import own_path, policy_of, usual_priority

_FREE = "FREE"


class Priorities:
    """Which priority a request has, by method and path.

    Args:
        routes: those of the application, each with its policy.
    """

    def __init__(self, routes: Sequence[Any]) -> None:
        unusual: defaultdict[str, set[str]] = defaultdict(set)
        for context in iter_route_contexts(routes):
            policy = policy_of(context.endpoint) if context.endpoint else None
            for method in context.methods or () if policy else ():
                assert policy is not None
                priority = policy.priority(method)
                if priority is not usual_priority(method):
                    name = _FREE if priority is None else priority.name
                    unusual[name].add(f"{method} {_pattern(context.path or '')}")
        listed = (f"(?P<{name}>{'|'.join(sorted(lines))})" for name, lines in sorted(unusual.items()))
        self._unusual = re.compile("|".join(listed))

    def of(self, method: str, path: str) -> Priority | None:
        """None: it holds no place. `path` is as our routes name it, without a proxy's prefix."""
        found = self._unusual.fullmatch(f"{method} {path}")
        if found is None or found.lastgroup is None:
            return usual_priority(method)
        return None if found.lastgroup == _FREE else Priority[found.lastgroup]


def _pattern(template: str) -> str:
    """
    >>> _pattern("/leases/{trial_id}/reports"), _pattern("/x/{name:path}")
    ('/leases/[^/]+/reports', '/x/.+')
    """
    parts = re.split(r"(\{[^}]*\})", template)
    return "".join(
        (".+" if part.endswith(":path}") else "[^/]+") if part.startswith("{") else re.escape(part)
        for part in parts
    )


class Shedding:
    """Args:
    places: those of this server.
    vouches: whether a token in an Authorization header is known here.
    prefix: what a proxy puts before our paths.
    """

    def __init__(
        self, places: Places, priorities: Priorities, vouches: Callable[[str], bool], prefix: str
    ) -> None:
        self._places, self._priorities, self._vouches = places, priorities, vouches
        self._prefix = prefix

    async def place_for(self, scope: Scope) -> Place:
        """Raises: TooMany."""
        places = self._places
        if not places.is_crowded:
            return await places.enter(Priority.DASHBOARD)
        authorization = Headers(scope=scope).get("authorization", "")
        priority = self._worth(scope["method"], own_path(Request(scope)), authorization)
        return Place(_nothing) if priority is None else await places.enter(priority)

    @property
    def is_refusing(self) -> bool:
        """Whether anybody is sent away."""
        return self._places.refuses(Priority.DASHBOARD)

    def refused(self, method: str, path: str, authorization: str) -> Priority | None:
        """The priority of a request that is to be sent away on its connection, which is counted; None if it
        is not."""
        priority = self._worth(method, path.removeprefix(self._prefix), authorization)
        if priority is None or not self._places.refuses(priority):
            return None
        self._places.refusal(priority)
        self._places.refused_on_connection += 1
        return priority

    def _worth(self, method: str, path: str, authorization: str) -> Priority | None:
        priority = self._priorities.of(method, path)
        if priority is None or priority is Priority.DASHBOARD or self._vouches(authorization):
            return priority
        return Priority.DASHBOARD


def _nothing() -> None:
    """What a place gives back that was none."""
