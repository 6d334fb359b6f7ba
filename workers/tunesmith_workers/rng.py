"""Random state: one place that seeds, saves and restores every generator a trial may draw from.

A warm child has run other trials before. `begin` puts everything that training reads and other
trials may have changed back to what a fresh process has, so that a trial after ten others equals
the same trial in a fresh child to the bit.
"""

from __future__ import annotations

import hashlib
import random
from typing import Any

import numpy as np
import torch


def begin(seed: int, threads: int) -> None:
    """Seed all generators and make torch compute the same way every time.

    Operations that have no deterministic form (a few on CUDA) warn and run.
    """
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)
    torch.set_num_threads(threads)
    torch.set_default_dtype(torch.float32)
    torch.set_default_device(None)
    torch.set_float32_matmul_precision("highest")
    torch.set_flush_denormal(False)
    torch.set_grad_enabled(True)
    for device in ("cpu", "cuda"):
        torch.set_autocast_enabled(device, False)
    torch.autograd.set_detect_anomaly(False)  # it raises where a NaN would end a trial as diverged
    torch.use_deterministic_algorithms(True, warn_only=True)
    # Filling fresh memory with NaN finds bugs in kernels; it costs time and changes no result.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    torch.backends.cudnn.benchmark = False
    torch.backends.cudnn.deterministic = True


def derive(seed: int, *path: str | int) -> int:
    """A seed for the stream named by `path`, in [0, 2**63): equal paths give equal seeds."""
    text = "/".join(str(p) for p in (seed, *path))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def state(device: torch.device) -> dict[str, Any]:
    """The state of Python's, numpy's and torch's generators, and of the device's, as a tree."""
    kind, keys, position, has_gauss, gauss = np.random.get_state(legacy=True)
    words = torch.from_numpy(np.asarray(keys, dtype=np.uint32).copy())
    found: dict[str, Any] = {
        "python": random.getstate(),
        "numpy": [kind, words, position, has_gauss, gauss],
        "torch": torch.get_rng_state(),
    }
    if device.type == "cuda":
        found["cuda"] = torch.cuda.get_rng_state(device)
    return found


def restore(saved: dict[str, Any], device: torch.device) -> None:
    """Put back what `state` returned. A state taken on another kind of device restores the rest."""
    random.setstate(saved["python"])
    kind, keys, position, has_gauss, gauss = saved["numpy"]
    np.random.set_state((kind, keys.numpy(), position, has_gauss, gauss))
    torch.set_rng_state(saved["torch"])
    if device.type == "cuda" and "cuda" in saved:
        torch.cuda.set_rng_state(saved["cuda"], device)
