"""What the NVIDIA driver says, asked directly: no torch, no onnxruntime, so that doctor and export both can."""

import ctypes
import os


def gpus() -> int:
    "How many GPUs the NVIDIA driver offers this process (CUDA_VISIBLE_DEVICES counts)."
    try:
        driver = ctypes.CDLL("nvcuda.dll" if os.name == "nt" else "libcuda.so.1")
    except OSError:
        return 0
    count = ctypes.c_int()
    return count.value if driver.cuInit(0) == 0 and driver.cuDeviceGetCount(ctypes.byref(count)) == 0 else 0
