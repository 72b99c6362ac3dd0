"""What NVIDIA's driver and libraries say, asked directly: no torch, no onnxruntime, so doctor and export both can."""

import ctypes
import os

CUDNN = "cudnn64_9.dll" if os.name == "nt" else "libcudnn.so.9"


def missing_cudnn() -> str | None:
    """The name of cuDNN's library where the system's loader finds none; to be asked after `onnxruntime.preload_dlls`.

    From 1.28 on onnxruntime's CUDA part loads without it, and its convolutions are then slow or fail.
    """
    try:
        ctypes.CDLL(CUDNN)
    except OSError:
        return CUDNN
    return None


def gpus() -> int:
    "How many GPUs the NVIDIA driver offers this process (CUDA_VISIBLE_DEVICES counts)."
    try:
        driver = ctypes.CDLL("nvcuda.dll" if os.name == "nt" else "libcuda.so.1")
    except OSError:
        return 0
    count = ctypes.c_int()
    return count.value if driver.cuInit(0) == 0 and driver.cuDeviceGetCount(ctypes.byref(count)) == 0 else 0
