"""Commands and what became of them as bytes, between a server and its writer's process.

Not pickles, which may name any code: only values of the kinds listed here arrive, and plain ones.

>>> from tunesmith_service.commands import Lease, Renew
>>> unpacked(packed([Renew(Lease(7, 1, 1, b"secret")), {"lr": 0.1}, None]))
[Renew(lease=Lease(trial_id=7, incarnation=1, attempt=1, secret_hash=b'secret')), {'lr': 0.1}, None]
"""

from __future__ import annotations

import marshal
from collections.abc import Callable, Iterator
from dataclasses import fields
from enum import Enum
from typing import Any

from pydantic import BaseModel

from tunesmith_service import commands as c
from tunesmith_service import errors, wire
from tunesmith_service.audit_chain import Link
from tunesmith_service.batches import HANDLERS
from tunesmith_service.errors import TunesmithError
from tunesmith_service.notices import Notice
from tunesmith_service.once import Idempotency
from tunesmith_service.origin import Origin


def _errors(kind: type[TunesmithError] = TunesmithError) -> Iterator[type[TunesmithError]]:
    yield kind
    for more in kind.__subclasses__():
        if more.__module__ == errors.__name__:
            yield from _errors(more)


_VALUES = (
    *HANDLERS,
    c.Lease,
    Idempotency,
    Origin,
    c.Granted,
    c.Nothing,
    c.Kept,
    c.Ended,
    c.Swept,
    Link,
    Notice,
)
_KINDS: tuple[type[Any], ...] = (*_VALUES, wire.Register, *_errors())
_PLACES = {kind: place for place, kind in enumerate(_KINDS)}
_FIELDS = {kind: tuple(f.name for f in fields(kind)) for kind in _VALUES}
_MARK = ...  # begins what stands for a value of ours; nothing else holds one


def packed(value: Any) -> bytes:
    """Raises: ValueError for anything but values of ours, in lists and tuples, and plain ones."""
    return marshal.dumps(_plain(value))


def unpacked(data: bytes) -> Any:
    return _ours(marshal.loads(data))  # noqa: S302  (from our own other process)


def _plain(value: Any) -> Any:
    kind = type(value)
    if (make := _TAKEN_APART.get(kind)) is not None:
        return make(value)
    if isinstance(value, Enum):
        return value.value
    place = _PLACES.get(kind)
    if place is None:
        return value
    if isinstance(value, BaseModel):
        return _MARK, place, value.model_dump()
    if isinstance(value, TunesmithError):
        return _MARK, place, vars(value)
    return _MARK, place, *[_plain(getattr(value, name)) for name in _FIELDS[kind]]


_TAKEN_APART: dict[type[Any], Callable[[Any], Any]] = {
    list: lambda value: [_plain(each) for each in value],
    tuple: lambda value: tuple([_plain(each) for each in value]),
}


def _ours(value: Any) -> Any:
    if type(value) is list:
        return [_ours(each) for each in value]
    if type(value) is not tuple:
        return value
    if not value or value[0] is not _MARK:
        return tuple([_ours(each) for each in value])
    kind = _KINDS[value[1]]
    if issubclass(kind, BaseModel):
        return kind.model_validate(value[2])
    if issubclass(kind, TunesmithError):
        return _error(kind, value[2])
    return kind(**dict(zip(_FIELDS[kind], map(_ours, value[2:]), strict=True)))


def _error(kind: type[TunesmithError], said: dict[str, Any]) -> TunesmithError:
    error = kind(said["detail"])
    vars(error).update(said)
    return error
