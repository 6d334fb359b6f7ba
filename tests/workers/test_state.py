"""A worker's state directory."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import pytest
from tunesmith_workers.state import State, StateInUseError, open_state

Hold = Callable[[State], State]


@pytest.fixture
def hold() -> Iterator[Hold]:
    """Closes at the end what it was given."""
    with ExitStack() as held:
        yield lambda state: held.enter_context(closing(state))


def test_a_worker_is_the_same_after_a_restart_and_keeps_its_slots_when_it_gets_more(
    tmp_path: Path, hold: Hold
):
    with_two = hold(State(tmp_path))
    worker_id, slot_ids = with_two.identity(2)
    with_two.close()
    again = hold(State(tmp_path))
    assert again.identity(3)[0] == worker_id
    assert again.identity(3)[1][:2] == slot_ids
    assert again.identity(1) == (worker_id, slot_ids[:1])
    assert len(set(again.identity(3)[1])) == 3
    assert (tmp_path / "worker.json").stat().st_mode & 0o777 == 0o600


def test_a_second_supervisor_on_one_directory_is_refused_and_told_who_has_it(tmp_path: Path, hold: Hold):
    first = hold(State(tmp_path))
    with pytest.raises(StateInUseError, match=rf"process id {os.getpid()} uses .*--state or --name"):
        hold(State(tmp_path))
    first.close()
    hold(State(tmp_path))


def test_workers_without_a_name_get_directories_of_their_own(tmp_path: Path, hold: Hold):
    environ = {"XDG_STATE_HOME": str(tmp_path)}
    first, second = hold(open_state(None, None, environ)), hold(open_state(None, None, environ))
    assert first.directory == tmp_path / "tunesmith/workers/worker-0"
    assert second.directory == tmp_path / "tunesmith/workers/worker-1"
    assert first.identity(1)[0] != second.identity(1)[0]
    first.close()
    assert hold(open_state(None, None, environ)).directory == first.directory


def test_a_name_names_the_directory_and_is_never_a_path(tmp_path: Path, hold: Hold):
    environ = {"XDG_STATE_HOME": str(tmp_path)}
    assert hold(open_state(None, "gpu-box.1", environ)).directory.name == "gpu-box.1"
    for name in ("../x", "a/b", "", ".hidden", "x" * 65):
        with pytest.raises(ValueError, match="--name takes letters"):
            hold(open_state(None, name, environ))


def test_scratch_of_earlier_starts_is_removed_and_ours_stays(tmp_path: Path, hold: Hold):
    state = hold(State(tmp_path))
    (state.scratch / "old" / "0").mkdir(parents=True)
    (state.scratch / "new").mkdir()
    state.empty_scratch(but=state.scratch / "new")
    assert [p.name for p in state.scratch.iterdir()] == ["new"]
