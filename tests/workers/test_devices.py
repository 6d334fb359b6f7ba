"""Which devices are found, and how they are dealt out to slots."""

from __future__ import annotations

from pathlib import Path

import pytest
from tunesmith_workers.devices import CPU, Device, deal, discover, environment, named


def driver(directory: Path, script: str) -> dict[str, str]:
    """An environment whose nvidia-smi is a script of ours."""
    program = directory / "nvidia-smi"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    return {"PATH": f"{directory}:/usr/bin:/bin"}


def test_gpus_are_found_by_asking_the_driver_and_named_so_that_no_order_matters(tmp_path: Path):
    environ = driver(tmp_path, "echo GPU-aaa; echo GPU-bbb")
    assert discover(environ) == [Device("cuda:0", "GPU-aaa"), Device("cuda:1", "GPU-bbb")]


@pytest.mark.parametrize("script", ["exit 9", "true", "kill -9 $$"])
def test_a_driver_without_gpus_or_a_broken_one_leaves_the_cpu(tmp_path: Path, script: str):
    assert discover(driver(tmp_path, script)) == [CPU]


def test_without_a_driver_there_is_the_cpu(tmp_path: Path):
    assert discover({"PATH": str(tmp_path)}) == [CPU]


def test_a_choice_in_the_environment_is_obeyed_without_asking_the_driver(tmp_path: Path):
    environ = driver(tmp_path, "echo GPU-aaa; echo GPU-bbb")
    assert discover(environ | {"CUDA_VISIBLE_DEVICES": "3,1"}) == [
        Device("cuda:0", "3"),
        Device("cuda:1", "1"),
    ]
    assert discover(environ | {"CUDA_VISIBLE_DEVICES": ""}) == [CPU]
    assert discover(environ | {"CUDA_VISIBLE_DEVICES": "-1"}) == [CPU]


def test_people_name_devices_in_the_usual_ways():
    assert named("cuda:1, 2,GPU-8f") == [
        Device("cuda:1", "1"), Device("cuda:2", "2"), Device("cuda:GPU-8f", "GPU-8f"),
    ]  # fmt: skip
    assert named("cpu") == [CPU]
    with pytest.raises(ValueError, match="different names"):
        named("cuda:0,,cuda:1")
    with pytest.raises(ValueError, match="different names"):
        named("0,0")


GPUS = named("0,1,2,3")


def test_each_gpu_is_a_slot_unless_told_otherwise():
    assert deal(GPUS, cores=16).devices == tuple((gpu,) for gpu in GPUS)
    assert deal(GPUS, cores=16).threads == 4


def test_slots_may_share_a_device_or_hold_several():
    assert deal(GPUS[:1], slots_per_device=3, cores=2).devices == ((GPUS[0],),) * 3
    assert deal(GPUS, devices_per_slot=2, cores=2).devices == ((GPUS[0], GPUS[1]), (GPUS[2], GPUS[3]))
    with pytest.raises(ValueError, match="4 devices cannot be dealt out 3 to a slot"):
        deal(GPUS, devices_per_slot=3)


def test_a_cpu_gives_one_slot_with_all_cores_or_as_many_as_wanted_that_share_them():
    assert deal([CPU], cores=8) == deal([CPU], slots=1, cores=8)
    assert deal([CPU], cores=8).threads == 8
    assert deal([CPU], slots=3, cores=8).devices == ((CPU,),) * 3
    assert deal([CPU], slots=3, cores=8).threads == 2
    assert deal([CPU], slots=3, cores=2).threads == 1


def test_a_cpu_slot_may_hold_several_processes_as_if_each_had_a_gpu():
    assert deal([CPU], devices_per_slot=2, cores=8).devices == ((CPU, CPU),)
    assert deal([CPU], slots=2, devices_per_slot=2, cores=8).devices == ((CPU, CPU),) * 2
    assert deal([CPU], slots=2, devices_per_slot=2, cores=8).threads == 4  # of a slot, for all of its ranks


def test_cpu_slots_on_a_machine_with_gpus_are_refused_with_what_to_say_instead():
    with pytest.raises(ValueError, match=r"there are 4 GPUs: use --slots-per-device, or --devices cpu"):
        deal(GPUS, slots=2)


def test_a_child_sees_its_own_devices_alone():
    assert environment(GPUS[1:3], 2)["CUDA_VISIBLE_DEVICES"] == "1,2"
    assert environment([CPU], 2) == {
        "CUDA_VISIBLE_DEVICES": "",
        "OMP_NUM_THREADS": "2",
        "MKL_NUM_THREADS": "2",
        "OPENBLAS_NUM_THREADS": "2",
    }
