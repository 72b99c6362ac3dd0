"""The largest batch that fits into memory, found by optimiser steps that are taken and then undone."""

import ctypes
import gc
import re
from contextlib import suppress
from pathlib import Path

import torch
from fastai.callback.core import Callback, CancelFitException

from toolkit.learner.accumulate import AccumulateGradients
from toolkit.learner.cuda_graphs.callback import CudaGraphs
from toolkit.learner.device import lacks_memory
from toolkit.learner.learner import Learner
from toolkit.learner.loss_scaler import LossScaler
from toolkit.machine import free_memory
from toolkit.search.snapshot import trying_a_fit

SPARE = {"cuda": 0.1, "cpu": 0.2}  # share of the free memory kept for other steps and validation, which may need more
SMALL = 8  # photos of the smaller trial on a CPU


def largest_batch_size(learn: Learner, photos: int) -> tuple[int, str]:
    """Return the largest batch size that fits into memory and divides `photos`, those of an optimiser step; and a
    message on the memory it takes.

    On CUDA each size is tried, from the largest, by a step with the optimiser's state in place; the peak that torch
    counts may be 90 % of the free memory, with --cuda_graphs half of that.
    A CPU's memory does not run out with an error: the system swaps, then kills. There the peaks of this process
    (Linux's VmHWM) in steps of 8 and of 16 photos are extrapolated linearly, and the batches that workers read ahead
    are added; that may be 80 % of the free memory of machine and container.
    Peaks at 128 photos of 128 px were 1844, 1463 and 1577 MB for mobilenetv2_100 in bf16, resnet18 and vit_tiny in
    fp32; the estimates are 1919, 1858 and 1723 (24 Nov 2026, torch 2.15).
    Batches larger than the training set are not tried.
    Raises ValueError if not even the smallest fits, OSError on a system that does not report CPU peaks.
    """
    sizes = _sizes(photos, len(learn.dls.train_ds))
    if learn.dls.device.type == "cuda":
        free, peaks = _free_on_cuda(learn), (_peak_on_cuda(learn, size) for size in sizes)
    else:
        free, peaks = free_memory(), _peaks_on_cpu(learn, sizes)
    room = free * (1 - SPARE[learn.dls.device.type])
    room /= 2 if learn.callback(CudaGraphs) else 1  # a recording keeps a step's memory beside that of other steps
    for size, peak in zip(sizes, peaks, strict=True):
        if peak <= room:
            return size, f"{_gib(peak)} of the {_gib(free)} GiB that are free"
    raise ValueError(
        f"--bs auto: not even a batch of {sizes[-1]} fits into the {_gib(free)} GiB that are free: try a smaller "
        "--image_size or --arch"
    )


def _sizes(photos: int, there: int) -> list[int]:
    "Divisors of `photos`, from the largest; of those not below `there`, the training photos, only the smallest."
    divisors = [size for size in range(1, photos + 1) if photos % size == 0]
    enough = min((size for size in divisors if size >= there), default=photos)
    return [size for size in reversed(divisors) if size <= enough]


def _gib(size: float) -> str:
    return f"{size / 2**30:.1f}"


class OneStep(Callback):
    "Ends a fit after its first batch."

    order = 100

    def after_batch(self) -> None:
        raise CancelFitException


def _take_step(learn: Learner, size: int) -> None:
    "Take an optimiser step with a batch of `size`, read in this process; the caller undoes it."
    for loader in learn.dls.loaders:
        loader.bs, loader.fake_l.num_workers = size, 0
    if accumulate := learn.callback(AccumulateGradients):
        accumulate.n = 1
    if scaler := learn.callback(LossScaler):
        scaler.init_scale = 1.0  # a step that overflows is skipped, and the optimiser has no state then
    with learn.no_logging(), learn.no_bar():
        learn.fit(1, cbs=OneStep())


def _free_on_cuda(learn: Learner) -> int:
    "Free CUDA memory in bytes, after torch has released its cache."
    gc.collect()
    torch.cuda.empty_cache()
    return torch.cuda.mem_get_info(learn.dls.device)[0]


def _peak_on_cuda(learn: Learner, size: int) -> float:
    "Peak additional CUDA memory in bytes of a step with batch size `size`; inf if out of memory."
    _free_on_cuda(learn)  # release what the trial before held
    before = torch.cuda.memory_allocated(learn.dls.device)
    torch.cuda.reset_peak_memory_stats(learn.dls.device)
    try:
        with trying_a_fit(learn):
            for _ in range(2):  # in the second the optimiser has its state
                _take_step(learn, size)
        return torch.cuda.max_memory_allocated(learn.dls.device) - before
    except RuntimeError as error:
        if not lacks_memory(error):
            raise
        return float("inf")


def _peaks_on_cpu(learn: Learner, sizes: list[int]) -> list[float]:
    "Peak additional memory in bytes of a step with each of `sizes`, extrapolated from two small ones."
    small = max(1, min(SMALL, len(learn.dls.train_ds) // 2))
    start = _reset_peak()
    with trying_a_fit(learn):
        _take_step(learn, small)  # in those after it the optimiser has its state
        peaks = []
        for size in (small, 2 * small):
            _reset_peak()
            _take_step(learn, size)
            peaks.append(_peak() - start)
    each = max((peaks[1] - peaks[0]) / small, 4 * _photo(learn))
    return [max(peaks[0] + each * (size - small), 0) + _read_ahead(learn) * size for size in sizes]


def _photo(learn: Learner) -> int:
    "Bytes of one photo from a worker."
    return 3 * learn.dls.preprocess["crop"] ** 2


def _read_ahead(learn: Learner) -> int:
    "Bytes that workers hold for each photo of a batch: two finished batches each, and one in the making."
    return 3 * learn.dls.train.fake_l.num_workers * _photo(learn)


def _peak() -> int:
    "Peak memory of this process in bytes since `_reset_peak`."
    return int(re.search(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())[1]) * 1024


def _reset_peak() -> int:
    "Reset the peak to the memory held now. Return that in bytes."
    gc.collect()
    with suppress(AttributeError, OSError):  # glibc only: freed memory would be used again, and no peak seen
        ctypes.CDLL(None).malloc_trim(0)
    try:
        Path("/proc/self/clear_refs").write_text("5")
        return _peak()
    except (OSError, TypeError) as error:
        raise OSError(f"--bs auto on a CPU goes by Linux's /proc/self ({error}): give a number") from error
