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
    first = with_two.start(2)
    with_two.close()
    again = hold(State(tmp_path))
    with_three, with_one = again.start(3), again.start(1)
    assert {first.worker_id, with_three.worker_id, with_one.worker_id} == {first.worker_id}
    assert with_three.slot_ids[:2] == first.slot_ids
    assert with_one.slot_ids == first.slot_ids[:1]
    assert len(set(with_three.slot_ids)) == 3
    assert len({first.boot_id, with_three.boot_id, with_one.boot_id}) == 3
    assert (tmp_path / "worker.json").stat().st_mode & 0o777 == 0o600


def test_a_worker_counts_its_starts_and_goes_on_after_those_that_the_service_knows(
    tmp_path: Path, hold: Hold
):
    state = hold(State(tmp_path))
    assert [state.start(1).starts for _ in range(3)] == [1, 2, 3]
    assert state.start(1, after=7).starts == 8  # the directory was put back from a copy
    assert state.start(1, after=3).starts == 9
    state.close()
    assert hold(State(tmp_path)).start(1).starts == 10


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
    assert first.start(1).worker_id != second.start(1).worker_id
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
