"""CUDA calls that onnxruntime's Python does not offer: free memory, and memory that the GPU reads directly.

They go to the driver (https://docs.nvidia.com/cuda/cuda-driver-api/) for the GPU that onnxruntime uses, the first one.
"""

import ctypes
import functools
import math
import mmap
import os
import weakref
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np

PORTABLE = 1  # CU_MEMHOSTALLOC_PORTABLE and CU_MEMHOSTREGISTER_PORTABLE: pinned for every context


def free_gpu_memory() -> int:
    "Free bytes on the GPU. Raises OSError if the driver refuses."
    free, total = ctypes.c_size_t(), ctypes.c_size_t()
    with _context() as driver:
        _checked(driver.cuMemGetInfo_v2(ctypes.byref(free), ctypes.byref(total)), "cuMemGetInfo")
    return free.value


def pinned(shape: tuple[int, ...]) -> np.ndarray:
    """uint8 zeros in memory that the system never moves, so that the GPU copies it while the CPU continues.

    It is freed with the array. Raises OSError if the driver has none.
    """
    address, size = ctypes.c_void_p(), math.prod(shape)
    with _context() as driver:
        _checked(driver.cuMemHostAlloc(ctypes.byref(address), ctypes.c_size_t(size), PORTABLE), "cuMemHostAlloc")
    block = (ctypes.c_uint8 * size).from_address(address.value)
    weakref.finalize(block, _give_back, address).atexit = False  # the driver may be gone by then
    array = np.frombuffer(block, np.uint8).reshape(shape)
    array[:] = 0
    return array


def pin(array: np.ndarray) -> None:
    """Pin the memory of `array` in place until it is freed, as `pinned` does for new memory.

    array: contiguous, from the start of a page on, alone in its pages. Other processes may write to the memory.
    Raises OSError if the driver refuses.
    """
    address, size = ctypes.c_void_p(array.ctypes.data), math.ceil(array.nbytes / mmap.PAGESIZE) * mmap.PAGESIZE
    owner = array
    while isinstance(owner.base, np.ndarray):  # views of `array` keep this one, not `array`
        owner = owner.base
    with _context() as driver:
        _checked(driver.cuMemHostRegister_v2(address, ctypes.c_size_t(size), PORTABLE), "cuMemHostRegister")
    weakref.finalize(owner, _unpin, address).atexit = False  # it runs before the memory is unmapped


def _unpin(address: ctypes.c_void_p) -> None:
    with _context() as driver:
        driver.cuMemHostUnregister(address)


def _give_back(address: ctypes.c_void_p) -> None:
    with _context() as driver:
        driver.cuMemFreeHost(address)


@contextmanager
def _context() -> Iterator[ctypes.CDLL]:
    "The driver, in the primary context of the first GPU, which the whole process shares."
    driver, context = _primary_context()
    _checked(driver.cuCtxPushCurrent_v2(context), "cuCtxPushCurrent")
    try:
        yield driver
    finally:
        driver.cuCtxPopCurrent_v2(ctypes.byref(ctypes.c_void_p()))


@functools.cache
def _primary_context() -> tuple[ctypes.CDLL, ctypes.c_void_p]:
    """The driver and the primary context, retained until the process ends.

    The driver destroys a context that nobody retains, and frees the pinned memory with it.
    """
    driver = ctypes.CDLL("nvcuda.dll" if os.name == "nt" else "libcuda.so.1")
    device, context = ctypes.c_int(), ctypes.c_void_p()
    _checked(driver.cuInit(0), "cuInit")
    _checked(driver.cuDeviceGet(ctypes.byref(device), 0), "cuDeviceGet")
    _checked(driver.cuDevicePrimaryCtxRetain(ctypes.byref(context), device), "cuDevicePrimaryCtxRetain")
    return driver, context


def _checked(status: int, call: str) -> None:
    if status:
        raise OSError(f"the CUDA driver's {call} failed with error {status}")
