"""Which devices this machine has, and how they are dealt out to slots. No torch here.

A slot is a set of devices and runs one trial at a time. A trainer child sees its own devices alone,
by CUDA_VISIBLE_DEVICES.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

NVIDIA_SMI_SECONDS = 20.0  # a cold driver takes seconds


@dataclass(frozen=True, slots=True)
class Device:
    """One device. `visible` is what CUDA_VISIBLE_DEVICES calls it; None: not a CUDA device."""

    name: str  # such as cuda:0 or cpu
    visible: str | None = None


CPU = Device("cpu")


@dataclass(frozen=True, slots=True)
class Slots:
    """How this worker's slots stand on the machine.

    Attributes:
        devices: one tuple of devices a slot.
        threads: that each slot's trainer may use for arithmetic on the CPU.
    """

    devices: tuple[tuple[Device, ...], ...]
    threads: int


def discover(environ: Mapping[str, str]) -> list[Device]:
    """CUDA devices that the environment or the driver names; without any, the CPU."""
    if (visible := environ.get("CUDA_VISIBLE_DEVICES")) is not None:
        ids = [part.strip() for part in visible.split(",") if part.strip() not in ("", "-1")]
        return [Device(f"cuda:{i}", visible=part) for i, part in enumerate(ids)] or [CPU]
    return [Device(f"cuda:{i}", visible=uuid) for i, uuid in enumerate(_driver_uuids(environ))] or [CPU]


def _driver_uuids(environ: Mapping[str, str]) -> list[str]:
    """Names of the driver's GPUs that do not depend on an order of counting."""
    program = shutil.which("nvidia-smi", path=environ.get("PATH"))
    if program is None:
        return []
    try:
        answer = subprocess.run(  # noqa: S603  (a fixed question to the driver's own tool)
            [program, "--query-gpu=uuid", "--format=csv,noheader"],
            capture_output=True, text=True, timeout=NVIDIA_SMI_SECONDS, check=True, env=dict(environ),
        )  # fmt: skip
    except (subprocess.SubprocessError, OSError):  # a driver without a GPU, or a broken one
        return []
    return [line.strip() for line in answer.stdout.splitlines() if line.strip()]


def named(text: str) -> list[Device]:
    """Devices as a person names them: `cuda:0,cuda:2`, `0,2`, `GPU-8f…`, `cpu`.

    Raises: ValueError for an empty or repeated name.
    """
    names = [part.strip() for part in text.split(",")]
    if not all(names) or len(set(names)) < len(names):
        raise ValueError(f"--devices takes different names, such as cuda:0,cuda:1 or cpu, got {text!r}")
    return [_named(name) for name in names]


def _named(name: str) -> Device:
    if name.isdecimal():
        return Device(f"cuda:{name}", visible=name)
    if name.startswith("cuda:"):
        return Device(name, visible=name.removeprefix("cuda:"))
    if name.startswith(("GPU-", "MIG-")):
        return Device(f"cuda:{name}", visible=name)
    return Device(name)


def deal(
    found: Sequence[Device],
    *,
    slots: int | None = None,
    slots_per_device: int = 1,
    devices_per_slot: int = 1,
    cores: int | None = None,
) -> Slots:
    """Deal devices out to slots.

    Args:
        found: from `discover` or `named`.
        slots: how many CPU slots; None: one.
        slots_per_device: how many slots share each set of devices.
        devices_per_slot: how many devices a slot holds; without GPUs, how many processes may train a trial of
            it together.
        cores: of this machine that this process may use; None: asked of the system.
    Raises: ValueError for numbers that do not fit the devices.
    """
    cores = cores or len(os.sched_getaffinity(0))
    if [d for d in found if d.visible is not None]:
        if slots is not None:
            raise ValueError(
                f"--slots {slots} is for CPU slots, but there are {len(found)} GPUs: use --slots-per-device, "
                f"or --devices cpu to leave them alone"
            )
        if len(found) % devices_per_slot:
            raise ValueError(f"{len(found)} devices cannot be dealt out {devices_per_slot} to a slot")
        sets = [tuple(found[i : i + devices_per_slot]) for i in range(0, len(found), devices_per_slot)]
        dealt = tuple(one for one in sets for _ in range(slots_per_device))
    else:
        count = (slots or 1) * slots_per_device
        dealt = tuple((device,) * devices_per_slot for device in found for _ in range(count))
    return Slots(devices=dealt, threads=max(1, cores // len(dealt)))


def environment(devices: Sequence[Device], threads: int) -> dict[str, str]:
    """What a trainer child's environment says about its devices."""
    visible = ",".join(device.visible for device in devices if device.visible is not None)
    counts = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
    return {"CUDA_VISIBLE_DEVICES": visible, **{name: str(threads) for name in counts}}
