import pytest
import torch
from tunesmith_workers import memory
from tunesmith_workers.child import kind_of


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
        RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory"),
        RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 8 bytes"),
        RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        RuntimeError("CUDA error: out of memory"),
        MemoryError(),
    ],
    ids=lambda e: f"{type(e).__name__} {str(e)[:24]}",
)
def test_memory_that_ran_out_is_told_from_the_texts_that_torch_gives_it(error):
    assert memory.ran_out(error)
    assert kind_of(error) == "out_of_memory"


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("CUDA error: device-side assert triggered"),
        RuntimeError("mat1 and mat2 shapes cannot be multiplied"),
        ValueError("not enough memory"),
        KeyError("can't allocate memory"),
    ],
    ids=str,
)
def test_other_errors_are_not_taken_for_it(error):
    assert not memory.ran_out(error)


def test_a_tensor_that_no_machine_has_room_for_is_such_an_error():
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**62, dtype=torch.uint8)
    assert memory.ran_out(caught.value)
