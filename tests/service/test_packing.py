"""What travels between a server and its writer's process comes out as it went in."""

from __future__ import annotations

from typing import Any

import pytest
from databases import Databases
from service.test_crash_points import COMMANDS, world
from tunesmith_service import errors
from tunesmith_service.errors import TunesmithError
from tunesmith_service.packing import packed, unpacked

KINDS = [k for k in vars(errors).values() if isinstance(k, type) and issubclass(k, TunesmithError)]


@pytest.mark.parametrize("name", COMMANDS)
def test_commands_and_their_outcomes_come_out_as_they_went_in(databases: Databases, name: str) -> None:
    url = databases.make("sqlite")
    made = world(url)
    command = COMMANDS[name](made)
    (outcome,) = made.bench.batch(command)
    made.bench.engine.dispose()
    databases.drop(url)
    same, told = unpacked(packed([command, outcome]))
    assert (same, type(same)) == (command, type(command))
    assert getattr(same, "origin", None) == getattr(command, "origin", None)
    assert (told, type(told)) == (outcome, type(outcome))


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_refusals_say_the_same(kind: type[TunesmithError]) -> None:
    error = kind("no", errors=[{"pointer": "/lr", "message": "why"}], outcome={"expected_seq": 2})
    (told,) = unpacked(packed([error]))
    assert type(told) is kind
    assert (str(told), vars(told)) == ("no", vars(error))


@pytest.mark.parametrize("value", [object(), {"a": {1, object()}}, lambda: None])
def test_anything_else_is_refused(value: Any) -> None:
    with pytest.raises(ValueError, match="unmarshallable"):
        packed([value])
