"""What training gains its speed by, and `--exact` leaves out: photos laid out channels last, TF32, cuDNN's search."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from fastai.callback.core import Callback
from torch import nn

from toolkit.outside import reason_of


class Layout(Callback):
    """Photos come to the model laid out in memory as `memory_format` says, whatever mixed them on the way.

    The loaders' own come channels last already, and are then left as they are.
    """

    order = 95  # after fastai's MixUp and CutMix

    def __init__(self, memory_format: torch.memory_format):
        self.memory_format = memory_format

    def before_batch(self) -> None:
        self.learn.xb = tuple(
            part.contiguous(memory_format=self.memory_format) if part.ndim == 4 else part for part in self.xb
        )


def compiled(model: nn.Module, device: torch.device) -> nn.Module:
    """`model` itself, its calls from now on compiled by torch, which takes a while at the first of each shape.

    The names of its tensors and its state dict stay; copies of it are not compiled.

    Raises ValueError where nothing can be compiled for `device`.
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


@contextmanager
def torch_flags(device: torch.device, exact: bool) -> Iterator[None]:
    """Within it CUDA multiplies float32 in TF32 and cuDNN tries its algorithms on each new shape of input; for `exact`
    it does neither, and cuDNN's algorithms are deterministic. Then the flags are what they were. On a CPU they stay.
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
    _set_flags("highest" if exact else "high", not exact, not exact, exact or before[-1])
    try:
        yield
    finally:
        _set_flags(*before)


def _set_flags(matmul: str, allow_tf32: bool, benchmark: bool, deterministic: bool) -> None:
    torch.set_float32_matmul_precision(matmul)
    torch.backends.cudnn.allow_tf32 = allow_tf32
    torch.backends.cudnn.benchmark = benchmark
    torch.backends.cudnn.deterministic = deterministic
