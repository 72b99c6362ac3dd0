"""The parts of this machine: processors, memory, and the GPUs that NVIDIA's driver offers.

It imports neither torch nor onnxruntime, so that doctor and export can use it.
"""

import ctypes
import os
import sys
from contextlib import suppress
from pathlib import Path

CUDNN = "cudnn64_9.dll" if os.name == "nt" else "libcudnn.so.9"
CGROUPS = Path("/sys/fs/cgroup")
MEMORY_FILES = (  # of a container: the limit, and what is used of it
    ("memory.max", "memory.current"),  # cgroup version 2
    ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes"),  # version 1
)
MEMORY_ELSEWHERE = 4_000_000_000  # bytes assumed to be free if Linux's /proc is missing


def cores() -> int:
    "The number of processors that this process may use."
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def free_memory() -> int:
    "Bytes of memory that are free on this machine, or in this container if that has less; 4 GB if not on Linux."
    with suppress(OSError):
        lines = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
        return min(int(lines["MemAvailable"].split()[0]) * 1024, free_in_container(CGROUPS))
    return MEMORY_ELSEWHERE


def free_in_container(folder: Path) -> int:
    "Bytes that the control group in `folder` may still take; sys.maxsize if it has no limit."
    free = [sys.maxsize]
    for limit, used in MEMORY_FILES:
        with suppress(OSError, ValueError):  # no such file, or the limit is "max"
            free.append(int((folder / limit).read_text()) - int((folder / used).read_text()))
    return min(free)


def missing_cudnn() -> str | None:
    """The name of cuDNN's library if the system's loader can't find it, else None. Call `onnxruntime.preload_dlls`
    before.

    From 1.28 on onnxruntime's CUDA part loads without it, and its convolutions are then slow or fail.
    """
    try:
        ctypes.CDLL(CUDNN)
    except OSError:
        return CUDNN
    return None


def gpus() -> int:
    "The number of GPUs that the NVIDIA driver offers this process. CUDA_VISIBLE_DEVICES counts."
    try:
        driver = ctypes.CDLL("nvcuda.dll" if os.name == "nt" else "libcuda.so.1")
    except OSError:
        return 0
    count = ctypes.c_int()
    return count.value if driver.cuInit(0) == 0 and driver.cuDeviceGetCount(ctypes.byref(count)) == 0 else 0
