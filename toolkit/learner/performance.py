"""Faster training: memory kept from step to step and, unless `--exact` is given, photos laid out channels last, TF32
and batches of one size for cuDNN to plan for.
"""

import ctypes
import platform
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar

import torch
import torch.nn.functional as F
from fastai.callback.core import Callback
from torch import Tensor, nn

from toolkit import ranks
from toolkit.errors import reason_of


class ChannelsLast(Callback):
    """Photos come to the model in memory laid out as `memory_format` says, whatever mixed them on the way.

    The data loaders' own batches are channels last already, and are then left as they are.
    """

    name = "layout"  # load_learner takes learn.channels_last for fastai's own callback of that name
    order = 95  # after fastai's MixUp and CutMix

    def __init__(self, memory_format: torch.memory_format):
        self.memory_format = memory_format

    def before_batch(self) -> None:
        self.learn.xb = tuple(
            part.contiguous(memory_format=self.memory_format) if part.ndim == 4 else part for part in self.xb
        )


def layout_for(model: nn.Module, device: torch.device, exact: bool) -> torch.memory_format:
    """Return the layout of photos and weights: channels last; contiguous if `exact`, or if the former would crash.

    On a CPU the gradient of a strided convolution of 1x1 pixels with fewer than 8 input channels, as in the stem of
    RepVGG, MobileOne and FastViT, overwrites foreign memory in float32 if anything is channels last (torch 2.14.1).
    """
    strided = any(
        isinstance(layer, nn.Conv2d)
        and layer.kernel_size == (1, 1)
        and layer.stride != (1, 1)
        and layer.in_channels < 8
        for layer in model.modules()
    )
    return torch.contiguous_format if exact or (strided and device.type == "cpu") else torch.channels_last


def by_dtype(own: list[Tensor], theirs: list[Tensor]) -> list[tuple[list[Tensor], list[Tensor]]]:
    "Return both lists in parts of one dtype: torch's foreach functions take such a part at once, others one by one."
    parts: dict[torch.dtype, tuple[list[Tensor], list[Tensor]]] = {}
    for one, other in zip(own, theirs, strict=True):
        mine, others = parts.setdefault(one.dtype, ([], []))
        mine.append(one)
        others.append(other)
    return list(parts.values())


def compiled(model: nn.Module, device: torch.device) -> nn.Module:
    """Have torch compile the calls of `model`, which takes a while at the first of each shape, and return it.

    The names of its tensors and its state dict stay the same; copies of it are not compiled.

    Raises ValueError if nothing can be compiled for `device`.
    """
    try:
        torch.compile(torch.neg, options={"fx_graph_cache": False})(torch.zeros(2, device=device))
    except torch._dynamo.exc.TorchDynamoException as error:
        raise ValueError(
            f"--compile: torch {torch.__version__} can't compile for {device} here ({reason_of(error)}): install a C++ "
            "compiler (and Python's headers; Triton for CUDA), or leave --compile out"
        ) from error
    model.compile(dynamic=False)  # one program for each shape, so that a resumed run computes with the same ones
    return model


def uncompiled() -> AbstractContextManager:
    "Inside, a compiled model computes like one that is not compiled, and torch compiles nothing."
    return torch.compiler.set_stance("force_eager")


@contextmanager
def fast_math(device: torch.device, exact: bool) -> Iterator[None]:
    "`cudnn_flags` and `retaining_freed_memory`, around each pass over photos on `device`."
    with cudnn_flags(device, exact), retaining_freed_memory(device):
        yield


@contextmanager
def cudnn_flags(device: torch.device, exact: bool) -> Iterator[None]:
    """Inside, CUDA multiplies float32 in TF32; for `exact` it does not, and cuDNN's algorithms are deterministic.

    cuDNN chooses its algorithms by its heuristics, unless `torch.backends.cudnn.benchmark` was set before. Trying them
    takes up to 25 s for each batch shape, and steps were no faster on an H100 (LOG.md, 26 Nov 2026).
    Afterwards the flags are restored. On a CPU they are not changed.
    Source: https://docs.pytorch.org/docs/stable/notes/cuda.html#tensorfloat-32-tf32-on-ampere-and-later-devices
    """
    if device.type != "cuda":
        yield
        return
    before = (
        torch.get_float32_matmul_precision(),
        torch.backends.cudnn.allow_tf32,
        torch.backends.cudnn.benchmark,
        torch.backends.cudnn.deterministic,
    )
    _set_flags("highest" if exact else "high", not exact, before[2] and not exact, exact or before[-1])
    try:
        yield
    finally:
        _set_flags(*before)


def _set_flags(matmul: str, allow_tf32: bool, benchmark: bool, deterministic: bool) -> None:
    torch.set_float32_matmul_precision(matmul)
    torch.backends.cudnn.allow_tf32 = allow_tf32
    torch.backends.cudnn.benchmark = benchmark
    torch.backends.cudnn.deterministic = deterministic


_largest: ContextVar[dict[tuple[bool, torch.Size], int] | None] = ContextVar("largest", default=None)


@contextmanager
def whole_batches(device: torch.device, exact: bool) -> Iterator[None]:
    """Inside, `in_whole_batches` fills up short batches, on CUDA unless `exact`.

    In fp32 and on several ranks, which share a batch's dropout, nothing is filled up.

    A batch of another size has cuDNN plan all convolutions anew: 1.5 s for the forward pass of a mobilenetv2, 3 s
    for its backward pass, 0.03 s for the forward pass of a resnet152, on an H100 (LOG.md, 26 Nov 2026).
    """
    if device.type != "cuda" or exact or ranks.count() > 1 or _largest.get() is not None:
        yield
        return
    token = _largest.set({})
    try:
        yield
    finally:
        _largest.reset(token)


def in_whole_batches(model: nn.Module, forward: Callable[[Tensor], Tensor], images: Tensor) -> Tensor:
    """Return forward(images), with a short batch filled up with zeros to the largest batch before it.

    images: [batch, 3, height, width]. Only inside `whole_batches`, and only for a model whose images do not affect each
    other: no batch norm may be in training mode. Hooks of the model see the filled batch.
    """
    if torch.compiler.is_compiling() or _largest.get() is None:
        return forward(images)
    sizes, count, kind = _largest.get(), len(images), (model.training, images.shape[1:])
    sizes[kind] = max(count, sizes.get(kind, 0))
    if count == sizes[kind] or _mixes_images(model):
        return forward(images)
    return forward(F.pad(images, (0, 0, 0, 0, 0, 0, 0, sizes[kind] - count)))[:count]


def _mixes_images(model: nn.Module) -> bool:
    return any(isinstance(layer, nn.modules.batchnorm._BatchNorm) and layer.training for layer in model.modules())


M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_THRESHOLD, M_MMAP_MAX = -1, -2, -3, -4  # malloc.h's names
_keeping = ContextVar("keeping", default=False)


@contextmanager
def retaining_freed_memory(device: torch.device) -> Iterator[None]:
    """Inside, memory that a step on a CPU frees stays with this process for the next step; it is given back at the end.

    Otherwise glibc returns large blocks to the system, which clears and maps their pages again at each step: a tenth of
    a convolutional net's step of 32 photos, half of one of 128 (LOG.md). The results are the same. Without glibc
    nothing is changed. Afterwards the thresholds are the ones that glibc's adaptive thresholds end up at.
    Source: mallopt(3), malloc_trim(3)
    """
    if device.type != "cpu" or platform.libc_ver()[0] != "glibc" or _keeping.get():
        yield
        return
    libc, token = ctypes.CDLL(None), _keeping.set(True)
    libc.mallopt(M_MMAP_MAX, 0)
    libc.mallopt(M_TRIM_THRESHOLD, 2**31 - 1)
    libc.mallopt(M_TOP_PAD, 2**26)  # grown by as much at a time, it is in fewer pieces
    try:
        yield
    finally:
        _keeping.reset(token)
        libc.mallopt(M_MMAP_MAX, 2**16)
        libc.mallopt(M_MMAP_THRESHOLD, 2**25)
        libc.mallopt(M_TRIM_THRESHOLD, 2**26)
        libc.mallopt(M_TOP_PAD, 2**17)
        libc.malloc_trim(0)
