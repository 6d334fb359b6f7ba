"""What a client is to do, said once for both kinds: a *flow* is a generator that yields requests and pauses,
is sent their answers, and returns what they came to. `Client` and `AsyncClient` each drive it in their way.

>>> def name_of(study):
...     found = yield Call("GET", ("studies", study))
...     return found["name"]
>>> flow = name_of("digits demo")
>>> next(flow).path
'studies/digits%20demo'
>>> try:
...     flow.send({"name": "digits demo"})
... except StopIteration as end:
...     end.value
'digits demo'
"""

from __future__ import annotations

import secrets
from collections.abc import Generator, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar
from urllib.parse import quote

import httpx

from tunesmith_service.exchange import TryAgain, failure

T = TypeVar("T")
Query = Mapping[str, str | int | float | bool | None]


@dataclass(frozen=True, slots=True)
class Call:
    """One request; its answer is the JSON of the API, None where that is empty.

    Attributes:
        parts: of the path below /api/v1/. Names of people never become path syntax: each is quoted whole.
        version: with it a change is refused if what is there has changed since (`Changed`).
    """

    method: str
    parts: tuple[str | int, ...]
    json: Any = None
    query: Query = field(default_factory=dict)
    version: int | None = None
    headers: Mapping[str, str] = field(default_factory=dict)

    @property
    def path(self) -> str:
        return "/".join(quote(str(part), safe="") for part in self.parts)

    def options(self) -> dict[str, Any]:
        """What httpx is told beside method and address. Made once for all tries of one call, which so carry
        the same Idempotency-Key."""
        headers = dict(self.headers)
        headers |= {"Idempotency-Key": secrets.token_hex(16)} if self.method == "POST" else {}
        headers |= {} if self.version is None else {"If-Match": f'"{self.version}"'}
        body = {} if self.json is None else {"json": self.json}
        return {"params": given(self.query), "headers": headers, **body}


@dataclass(frozen=True, slots=True)
class Rest:
    """A pause; its answer is None."""

    seconds: float


Flow = Generator[Call | Rest, Any, T]


def given(query: Query) -> dict[str, str | int | float | bool]:
    return {name: value for name, value in query.items() if value is not None}


def answer(response: httpx.Response) -> Any:
    """Raises: what the service refused with, or `TryAgain`."""
    if (refused := failure(response)) is not None:
        raise refused
    if not response.content:
        return None
    try:
        return response.json()
    except ValueError as e:  # such as a proxy's page, or what else lives at that address
        raise TryAgain(f"{response.request.url} answered something else than Tunesmith does: {e}") from e


def all_items(*parts: str | int, **query: str | int | float | bool | None) -> Flow[list[dict[str, Any]]]:
    """Every item of a list that comes in pages."""
    found: list[dict[str, Any]] = []
    while True:
        page = yield Call("GET", parts, query=query)
        found += page["items"]
        if page.get("next_cursor") is None:
            return found
        query = {**query, "cursor": page["next_cursor"]}
