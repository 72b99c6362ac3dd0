"""Checks of what computes: torch, onnxruntime, the GPU and the CPU."""

import contextlib
import ctypes
import io
import os
import platform
import sys
from collections.abc import Iterator
from pathlib import Path

from toolkit.installation.finding import REINSTALL, Finding, named_reason
from toolkit.machine import gpus, missing_cudnn


def torch_cuda() -> Iterator[Finding]:
    "Check that torch uses the GPU if there is one."
    import torch

    build = f"torch {torch.__version__}"
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if count:
        names = ", ".join(torch.cuda.get_device_name(index) for index in range(count))
        yield Finding("ok", f"{build}: CUDA {torch.version.cuda} on {names}")
    elif not gpus():
        yield Finding("note", f"{build}: on the CPU; {_no_gpu()}")
    elif torch.version.cuda is None:
        yield Finding("wrong", f"{build} is built without CUDA, and there is a GPU", REINSTALL["torchvision"])
    else:
        reason = _cuda_trouble(torch)
        yield Finding("wrong", f"{build} (CUDA {torch.version.cuda}) can't use the GPU: {reason}", "nvidia-smi")


def _cuda_trouble(torch) -> str:
    "Return why torch can't use CUDA."
    try:
        torch.cuda.init()
    except Exception as error:  # of many types
        return named_reason(error)
    return "it gives no reason"


def onnxruntime_cuda() -> Iterator[Finding]:
    "Check what onnxruntime runs a model on. Only a session shows it; the list of available providers does not."
    import onnxruntime

    build = f"onnxruntime {onnxruntime.__version__}"
    onnxruntime.set_default_logger_severity(4)
    if not gpus():
        yield Finding("note", f"{build}: {_provider('CPUExecutionProvider')}; {_no_gpu()}")
        return
    if "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
        yield Finding("wrong", f"{build} is built without CUDA, and there is a GPU", REINSTALL["onnxruntime"])
        return
    with contextlib.redirect_stdout(io.StringIO()):  # it prints what it can't find; _missing_library returns it
        onnxruntime.preload_dlls()
    loaded, fix = _provider("CUDAExecutionProvider"), "pip install 'onnxruntime-gpu[cuda,cudnn]' -U"
    if loaded != "CUDAExecutionProvider":
        reason = _missing_library(Path(onnxruntime.__file__).parent / "capi") or "it gives no reason"
        yield Finding("wrong", f"{build} falls back to {loaded}: {reason}", fix)
    elif missing := missing_cudnn():
        yield Finding("wrong", f"{build} computes convolutions slowly or not at all: {missing} can't be loaded", fix)
    else:
        yield Finding("ok", f"{build}: {loaded}")


def _provider(wanted: str) -> str:
    "Return the provider that runs a model of one node, if `wanted` comes first and the CPU second."
    import onnx
    import onnxruntime
    from onnx import TensorProto, helper

    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1]) for name in ("x", "y")]
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "doctor", ends[:1], ends[1:])
    model = helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 18)], ir_version=10)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    providers = list(dict.fromkeys([wanted, "CPUExecutionProvider"]))
    with contextlib.redirect_stdout(io.StringIO()):  # its fallback is printed
        return onnxruntime.InferenceSession(model.SerializeToString(), options, providers).get_providers()[0]


def _missing_library(folder: Path) -> str | None:
    "Return why the system can't load onnxruntime's CUDA part; None if it can, or if the system is not Linux."
    if sys.platform != "linux":
        return None
    try:
        for name in ("shared", "cuda"):
            ctypes.CDLL(str(folder / f"libonnxruntime_providers_{name}.so"))
    except OSError as error:
        return str(error)
    return None


def _no_gpu() -> str:
    "Return why there may be no GPU."
    hidden = os.environ.get("CUDA_VISIBLE_DEVICES")
    return "no NVIDIA GPU, or no driver for it" + ("" if hidden is None else f" (CUDA_VISIBLE_DEVICES is {hidden!r})")


def processor() -> Iterator[Finding]:
    "Report whether --precision auto trains in bf16 on this CPU."
    from toolkit.learner.device import cpu_has_bf16

    if cpu_has_bf16():
        yield Finding("ok", f"{platform.machine()} CPU with bf16: --precision auto trains in it")
    else:
        yield Finding("note", f"{platform.machine()} CPU without bf16: --precision auto trains in fp32 on it")
