"""The device and the number format that a model computes in: the requested ones or an error, never others silently."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import MethodType

import torch
from torch import Tensor, nn

from toolkit import ranks
from toolkit.learner.performance import in_whole_batches
from toolkit.machine import cores
from toolkit.options import Options
from toolkit.ranges import check_ranges

DTYPES = {"fp16": torch.float16, "bf16": torch.bfloat16, "fp32": torch.float32}


def pick_device(name: str) -> torch.device:
    """Return the device `cpu` or `cuda`, or for `auto` CUDA if there is one, else the CPU.

    `cuda` is torch's current GPU, by default the first that CUDA_VISIBLE_DEVICES leaves visible; of several ranks each
    has its own.
    Raises ValueError for another name, and for `cuda` if torch sees no GPU.
    """
    if name == "auto":
        return _own_gpu() if torch.cuda.is_available() else torch.device("cpu")
    kind, _, number = name.partition(":")
    if kind == "cuda" and number.isdigit():  # onnxruntime, which verifies and predicts, would take the first
        raise ValueError(f"--device {name}: set CUDA_VISIBLE_DEVICES={number}, and give --device cuda")
    if name not in ("cpu", "cuda"):
        raise ValueError(f"unknown device {name!r}: choose auto, cuda or cpu")
    if name == "cuda" and torch.cuda.device_count() == 0:
        raise ValueError(
            f"--device cuda: torch {torch.__version__} sees 0 CUDA devices; choose cpu or auto, or run "
            "`python -m toolkit.doctor` to see what is missing"
        )
    return _own_gpu() if name == "cuda" else torch.device("cpu")


def _own_gpu() -> torch.device:
    "The current GPU; each of several ranks on this machine has its own."
    if ranks.count() > 1:
        if ranks.local_rank() >= torch.cuda.device_count():
            raise ValueError(
                f"{ranks.local_count()} processes on this machine, but torch sees {torch.cuda.device_count()} CUDA "
                "devices: give each its own by fewer --num_processes, or choose --device cpu"
            )
        torch.cuda.set_device(ranks.local_rank())
    return torch.device("cuda")


def pick_precision(name: str, device: torch.device) -> str:
    """Return the number format of the forward pass: fp32, fp16 or bf16.

    `auto` is fp16 on CUDA (the homework's `to_fp16`), bf16 on a CPU that multiplies it in hardware, else fp32.
    Raises ValueError for another name, and for bf16 on a GPU that lacks it.
    """
    if name == "auto":
        if device.type == "cuda":
            return "fp16"
        return "bf16" if cpu_has_bf16() else "fp32"
    if name not in DTYPES:
        raise ValueError(f"unknown precision {name!r}: choose one of auto, {', '.join(DTYPES)}")
    if name == "bf16" and device.type == "cuda" and not torch.cuda.is_bf16_supported(including_emulation=False):
        raise ValueError(f"--precision bf16: {torch.cuda.get_device_name(device)} has no bf16; choose fp16 or fp32")
    return name


def cpu_has_bf16() -> bool:
    "True if this CPU multiplies bf16 in hardware (avx512_bf16, amx_bf16, Arm's); else bf16 is slower than fp32."
    if not hasattr(torch.cpu, "get_capabilities"):  # torch 2.11 knows only this one
        return torch.cpu._is_avx512_bf16_supported()
    found = torch.cpu.get_capabilities()
    return any(found.get(flag) for flag in ("avx512_bf16", "amx_bf16", "bf16"))


def mixed_precision(model: nn.Module, device: torch.device, precision: str) -> nn.Module:
    """Have `model` run its forward pass under autocast to `precision`, with a float32 output, and return it; fp32 ends
    that.

    Autocast is entered and left inside the call, so neither an exception nor Ctrl-C leaves it on, as they do with
    fastai's MixedPrecision callback. It holds for training, validation and prediction, on any device.
    """
    if precision != "fp32":
        model.autocast = device.type, DTYPES[precision]
        model.forward = MethodType(_autocast_forward, model)
    elif "autocast" in vars(model):
        del model.forward, model.autocast
    return model


@contextmanager
def in_float32(model: nn.Module) -> Iterator[None]:
    "Inside, the forward pass of a model under `mixed_precision` is in float32, as in its exported file."
    if "autocast" not in vars(model):
        yield
        return
    before = model.autocast
    model.autocast = before[0], torch.float32
    try:
        yield
    finally:
        model.autocast = before


def _autocast_forward(model: nn.Module, *inputs: Tensor) -> Tensor:
    device_type, dtype = model.autocast
    with torch.autocast(device_type, dtype=dtype, enabled=dtype != torch.float32):
        if len(inputs) == 1 and inputs[0].ndim == 4:
            return in_whole_batches(model, partial(type(model).forward, model), *inputs).float()
        return type(model).forward(model, *inputs).float()


def pick_workers(count: int | None) -> int:
    "`count` data-loading processes; None is one for each core that this process may use, at most 8."
    if count is None:
        return min(8, max(1, cores() // ranks.local_count()))
    check_ranges({"workers": count})
    return count


def resolved(options: Options) -> Options:
    "`options` with the device, the precision and the number of workers that are used. Raises ValueError as these do."
    device = pick_device(options.device)
    if options.cuda_graphs:
        _check_cuda_graphs(device, options.compile)
    return replace(
        options,
        device=str(device),
        precision=pick_precision(options.precision, device),
        workers=pick_workers(None if options.workers == "auto" else options.workers),
    )


def _check_cuda_graphs(device: torch.device, compile: bool) -> None:
    if device.type != "cuda":
        raise ValueError(f"--cuda_graphs on {device}: only a CUDA device has them; leave --cuda_graphs out")
    if ranks.count() > 1:
        raise ValueError(f"--cuda_graphs on {ranks.count()} processes: it is made for one; leave --cuda_graphs out")
    if compile:
        raise ValueError("--cuda_graphs and --compile: choose one of them")


def lacks_memory(error: BaseException | None) -> bool:
    "True if a computation ended for want of GPU memory, by torch's word or by cuDNN's, cuBLAS's or the driver's."
    words = "ALLOC_FAILED", "out of memory"
    return isinstance(error, torch.OutOfMemoryError) or any(each in str(error) for each in words)


def peak_memory(device: torch.device) -> int:
    "Peak memory in bytes so far: on the GPU if that is the device, else of this process (workers not counted)."
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    status = Path("/proc/self/status")
    if status.is_file():  # Linux; its ru_maxrss would begin with the peak of the process that started this one
        return int(status.read_text().partition("VmHWM:")[2].split()[0]) * 1024
    import resource  # not on Windows

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
