"""A model alone on a GPU, by onnxruntime's options and by torch, in batches of 256. For tests/bench/predict.py."""

import functools
import gc
import threading
import time
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from export.runtime.buffers import BoundBuffer
from export.runtime.open_session import CUDA_VARIANTS, providers_of, session_of
from export.runtime.providers import choose_device

BS, SIZE, CLASSES, BATCHES = 256, 224, 100, 15
TRIED = ["plain", "nhwc", "heuristic", "nhwc graph", "graph"]
ENOUGH = 75
"Seconds after which no other variant of onnxruntime is begun."


class Figures(NamedTuple):
    first: float
    "Seconds for the session and its first batch."
    one: float
    "Images/s of one thread."
    two: float | None = None
    "Images/s of two threads, each with a stream; None if one run at a time is allowed."


def table(data: bytes, network) -> None:
    "A line for each: onnxruntime's variants from pinned uint8 on, torch's from float16 on the device on."
    choose_device("cuda")  # it loads CUDA's libraries
    torch_half = functools.partial(of_torch, network)
    print(f"{'':24}session + first batch   one stream   two streams   (images/s)")
    line("torch eager", lambda: torch_half(False))
    line("as export.predict has it", functools.partial(of_onnxruntime, data, None))
    kernels("as export.predict has it", session_buffers(data, None)[0].run)
    line("torch.compile", lambda: torch_half(True))
    begun = time.perf_counter()
    for variant in TRIED:
        if time.perf_counter() - begun > ENOUGH:
            print(f"{variant}: left out, {ENOUGH} s have passed")
            continue
        line(variant, functools.partial(of_onnxruntime, data, variant))
    line("torch eager again", lambda: torch_half(False))


def kernels(name: str, run: Callable, batches: int = 5) -> None:
    "Print which kernels take the GPU's time, by torch's profiler, which sees those of onnxruntime too."
    import torch

    images = np.zeros((BS, SIZE, SIZE, 3), np.uint8)
    run(images)
    begun = time.perf_counter()
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
        for _ in range(batches):
            run(images)
    wall = time.perf_counter() - begun
    found = sorted(profile.key_averages(), key=lambda each: -each.self_device_time_total)
    busy = sum(each.self_device_time_total for each in found) / 1e3 / batches
    print(f"{name}: kernels take {busy:.1f} ms of a batch, which takes {wall * 1e3 / batches:.1f} ms while profiled")
    for each in found[:12]:
        share = each.self_device_time_total / 1e3 / batches
        print(f"  {share:6.2f} ms {each.count / batches:6.1f} times  {each.key[:110]}", flush=True)


def line(name: str, figures_of: Callable[[], Figures]) -> None:
    try:
        first, one, two = figures_of()
        print(f"{name:24}{first:19.1f} s{one:13.0f}" + (f"{two:14.0f}" if two else f"{'-':>14}"), flush=True)
    except Exception as error:  # a variant that fails is a result
        print(f"{name:24}failed: {type(error).__name__}: {' '.join(str(error).split())[:300]}", flush=True)
    gc.collect()


def of_onnxruntime(data: bytes, variant: str | None, device: str = "cuda") -> Figures:
    "variant: None for what a run gets. A CUDA graph needs one size of batch, outputs in place, and one run at a time."
    begun = time.perf_counter()
    buffers = session_buffers(data, variant, device)
    buffers[0].run(buffers[0].images)
    first = time.perf_counter() - begun
    for buffer in buffers:
        buffer.run(buffer.images)
    return Figures(first, in_threads(buffers[:1]), in_threads(buffers) if len(buffers) > 1 else None)


def session_buffers(data: bytes, variant: str | None, device: str = "cuda") -> list[BoundBuffer]:
    graph = variant is not None and "enable_cuda_graph" in CUDA_VARIANTS[variant]
    images = np.random.default_rng(0).integers(0, 256, (BS, SIZE, SIZE, 3), np.uint8)
    session = session_of(data, providers_of(data, device, variant), None, BS if graph else None)
    buffers = [
        BoundBuffer(session, images.shape, device, classes=CLASSES if graph else None) for _ in range(1 if graph else 2)
    ]
    for buffer in buffers:
        buffer.images[:] = images
    return buffers


def in_threads(buffers: list[BoundBuffer]) -> float:
    "Images/s of a thread for each buffer."

    def run(buffer: BoundBuffer) -> None:
        for _ in range(BATCHES):
            buffer.run(buffer.images)

    threads = [threading.Thread(target=run, args=(buffer,)) for buffer in buffers]
    begun = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return len(buffers) * BATCHES * BS / (time.perf_counter() - begun)


def of_torch(network, compiled: bool) -> Figures:
    import torch

    model = network.cuda().half().to(memory_format=torch.channels_last)
    pixels = torch.rand(BS, 3, SIZE, SIZE, device="cuda").half().to(memory_format=torch.channels_last)
    begun = time.perf_counter()
    model = torch.compile(model) if compiled else model
    with torch.inference_mode():
        model(pixels).argmax(1).tolist()
        first = time.perf_counter() - begun
        for _ in range(2):
            model(pixels).argmax(1).tolist()
        begun = time.perf_counter()
        for _ in range(BATCHES):
            model(pixels).argmax(1).tolist()
    return Figures(first, BATCHES * BS / (time.perf_counter() - begun))
