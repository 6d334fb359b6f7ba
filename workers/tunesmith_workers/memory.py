"""Whether a device ran out of memory, which an error's class alone does not tell."""

from __future__ import annotations

import torch

_OF_CPUS = ("can't allocate memory", "not enough memory")
_OF_LIBRARIES = ("CUDA error: out of memory", "CUDNN_STATUS_ALLOC_FAILED", "CUBLAS_STATUS_ALLOC_FAILED")


def ran_out(error: BaseException) -> bool:
    """Whether smaller batches might have spared us this error."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(text in str(error) for text in _OF_CPUS + _OF_LIBRARIES)


def give_back(device: torch.device) -> None:
    """Return what torch keeps for later to the device: the next try may want it in other sizes."""
    if device.type == "cuda":
        torch.cuda.empty_cache()
