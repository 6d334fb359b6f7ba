"""Whether a device ran out of memory, which an error's class alone does not tell."""

from __future__ import annotations

import torch

_TEXTS = ("can't allocate memory", "not enough memory")  # of torch's allocator for the CPU


def ran_out(error: BaseException) -> bool:
    """Whether smaller batches might have spared us this error."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(text in str(error) for text in _TEXTS)


def give_back(device: torch.device) -> None:
    """Return what torch keeps for later to the device: the next try may want it in other sizes."""
    if device.type == "cuda":
        torch.cuda.empty_cache()
