"""Tells the errors of a device apart: too little memory, or a device that this process cannot use any more."""

import torch

# In messages of the CPU's allocator, of CUDA, and of cuBLAS, which allocates a workspace at its first call.
NO_MEMORY = (
    "can't allocate memory",
    "out of memory",
    "CUBLAS_STATUS_ALLOC_FAILED",
    "CUBLAS_STATUS_NOT_INITIALIZED",
)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether a smaller batch may succeed."""
    return isinstance(error, torch.OutOfMemoryError) or any(text in str(error) for text in NO_MEMORY)


def is_device_lost(error: BaseException) -> bool:
    """Whether the device answers every later call of this process with an error, too.

    CUDA calls such errors sticky, e.g. an illegal memory access or a failed assertion on the device: only a new
    process can use the device again (https://docs.nvidia.com/cuda/cuda-runtime-api, `cudaErrorIllegalAddress`).
    """
    # torch.AcceleratorError is new in torch 2.8.
    is_device_error = isinstance(error, getattr(torch, "AcceleratorError", ()))
    is_cuda_error = isinstance(error, RuntimeError) and "CUDA error" in str(error)
    return (is_device_error or is_cuda_error) and not is_out_of_memory(error)
