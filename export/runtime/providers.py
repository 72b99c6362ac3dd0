"""Find out whether onnxruntime can run on the GPU here, and if not, why and what to do about it.

onnxruntime does not say: it lists CUDA among its providers on any machine, and falls back to the CPU without an error.
"""

import contextlib
import ctypes
import io
import os
import re
import sys
from pathlib import Path

from toolkit.machine import gpus, missing_cudnn

PROVIDERS = {
    "cuda": ["CUDAExecutionProvider", "CPUExecutionProvider"],
    "tensorrt": ["TensorrtExecutionProvider", "CUDAExecutionProvider", "CPUExecutionProvider"],
    "cpu": ["CPUExecutionProvider"],
}
DEVICES = ["auto", *PROVIDERS]
CUDA_LINE = "pip install 'onnxruntime-gpu[cuda,cudnn]'"


def choose_device(device: str) -> str:
    """Return cpu, cuda or tensorrt: `device` itself if it can be used; for auto CUDA, else the CPU, and print which.

    Raises ValueError for a device that can't be used here, with the reason, and for an unknown one.
    """
    if device not in DEVICES:
        raise ValueError(f"unknown device {device!r}: choose one of {', '.join(DEVICES)}")
    if device == "cpu":
        return device
    reason = obstacle("cuda" if device == "auto" else device)
    if device == "auto":
        chosen = "cpu" if reason else "cuda"
        print(f"device auto: {chosen}" + (f" ({reason})" if reason else ""), file=sys.stderr)
        return chosen
    if reason:
        raise ValueError(f"device {device} is not to be had: {reason}\nchoose cpu or auto to run without it")
    return device


def obstacle(device: str) -> str | None:
    "The reason why onnxruntime can't run on `device` (cuda or tensorrt) here, and what to do; None if it can."
    import onnxruntime

    if gpus() == 0:
        return "no NVIDIA GPU here, or no driver for it"
    if PROVIDERS[device][0] not in onnxruntime.get_available_providers():
        return f"this onnxruntime is built without it: {CUDA_LINE}"
    with contextlib.redirect_stdout(io.StringIO()):  # it prints what it can't find; missing_library reports that
        onnxruntime.preload_dlls()
    missing = missing_library(device) or missing_cudnn()
    return f"{missing} can't be loaded: {line_that_brings(missing)}" if missing else None


def tensorrt_version() -> int:
    "The version of the TensorRT that onnxruntime loads: 101400 for 10.14.0."
    import onnxruntime

    folder = Path(onnxruntime.__file__).parent / "capi"
    # Linux also looks up a symbol in the libraries that a library depends on
    name = "nvinfer_10.dll" if os.name == "nt" else str(folder / "libonnxruntime_providers_tensorrt.so")
    return ctypes.CDLL(name).getInferLibVersion()


def missing_library(device: str) -> str | None:
    """The library without which onnxruntime's provider for `device` can't load, as the system's loader names it.

    onnxruntime itself only logs this. Linux only; elsewhere the session's providers show that loading failed, not why.
    """
    import onnxruntime

    if sys.platform != "linux":
        return None
    folder = Path(onnxruntime.__file__).parent / "capi"
    try:
        if device == "tensorrt":
            _preload_tensorrt()
        for name in ("shared", device):
            ctypes.CDLL(str(folder / f"libonnxruntime_providers_{name}.so"))
    except OSError as error:
        return str(error).partition(":")[0]
    return None


def _preload_tensorrt() -> None:
    "Load TensorRT's libraries: its wheel puts them into a folder that the loader does not search."
    import importlib.util

    found = importlib.util.find_spec("tensorrt_libs")
    for folder in found.submodule_search_locations if found else []:
        for name in ("libnvinfer.so.*", "libnvinfer_plugin.so.*", "libnvonnxparser.so.*"):
            for library in Path(folder).glob(name):
                ctypes.CDLL(str(library), ctypes.RTLD_GLOBAL)


def line_that_brings(library: str) -> str:
    "The pip command that installs `library`."
    if re.match(r"libnv(infer|onnxparser)", library):
        import onnxruntime

        cuda, major = onnxruntime.cuda_version.split(".")[0], library.rpartition(".so.")[2] or "10"
        return f"pip install 'tensorrt-cu{cuda}=={major}.*'"
    return CUDA_LINE
