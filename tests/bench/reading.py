"""Photos -> pixels, without a model: threads against processes, and Python's lock. For tests/bench/predict.py."""

import contextlib
import functools
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import numpy as np

from export.reading.prepare import fill, prepared
from export.reading.readers import Readers
from export.runtime.batching import in_batches
from toolkit.data.preprocess import for_size
from toolkit.machine import cores

BS, BUFFERS, ROUNDS = 256, 3, 3
PREPROCESS = for_size(224)
SHAPE = (BS, PREPROCESS["crop"], PREPROCESS["crop"], 3)


def scaling(paths: list[Path]) -> None:
    "Images/s of threads and of processes, in turn, of 2, 4, 8 and 16 workers as far as there are cores."
    print("workers   threads   processes   ratio   (images/s, median of rounds)   start of the processes")
    cv2.setNumThreads(0)
    for workers in [count for count in (2, 4, 8, 16) if count <= cores()]:
        begun = time.perf_counter()
        with contextlib.closing(Readers(workers)) as readers:
            readers.open(BUFFERS, SHAPE, PREPROCESS)
            read(paths[: 8 * workers], readers.images, readers.fill, workers)
            start, rates = time.perf_counter() - begun, []
            for _ in range(ROUNDS):
                ours = [np.empty(SHAPE, np.uint8) for _ in range(BUFFERS)]
                with_threads = rate(paths, ours, functools.partial(fill, preprocess=PREPROCESS), workers)
                rates.append((with_threads, rate(paths, readers.images, readers.fill, workers)))
        threads, processes = map(statistics.median, zip(*rates, strict=True))
        ratio = statistics.median(process / thread for thread, process in rates)
        print(f"{workers:7}{threads:10.0f}{processes:12.0f}{ratio:8.2f}{start:35.2f} s", flush=True)


def together(paths: list[Path], workers: int) -> float:
    "Images/s of so many processes at a time with no model beside them, the median of rounds."
    with contextlib.closing(Readers(workers)) as readers:
        readers.open(BUFFERS, SHAPE, PREPROCESS)
        read(paths[: 8 * workers], readers.images, readers.fill, workers)
        return statistics.median(rate(paths, readers.images, readers.fill, workers) for _ in range(ROUNDS))


def rate(paths: list[Path], buffers: list[np.ndarray], fill: Callable, workers: int) -> float:
    begun = time.perf_counter()
    read(paths, buffers, fill, workers)
    return len(paths) / (time.perf_counter() - begun)


def read(paths: list[Path], buffers: list[np.ndarray], fill: Callable, workers: int) -> None:
    "Read all of them; raise what keeps one from being read."
    for outcomes in in_batches(paths, buffers, BS, fill, lambda _, outcomes: outcomes, workers):
        assert not any(outcomes), outcomes


def lock(paths: list[Path]) -> None:
    """Milliseconds of a photo outside of C calls that let go of Python's lock: OpenCV's, and reading the file.

    By the thread's own processor time, so that other processes do not count. More than 1 / n of the whole, and n
    threads wait for each other.
    """
    cv2.setNumThreads(0)
    plain = min(thread_seconds(lambda: [prepared(path, PREPROCESS) for path in paths]) for _ in range(ROUNDS))
    figures = []
    for _ in range(ROUNDS):
        with timed_calls() as inside:
            whole = thread_seconds(lambda: [prepared(path, PREPROCESS) for path in paths])
        figures.append((whole - sum(inside), inside))
    held, inside = min(figures)
    calls, photos = len(inside) / len(paths), len(paths)
    print(f"a photo {plain / photos * 1e3:.3f} ms; Python's lock held for {held / photos * 1e3:.3f} ms of it", end="")
    print(f" ({calls:.0f} calls without it, {sum(inside) / photos * 1e3:.3f} ms); threads could make use of", end="")
    print(f" {plain / held:.1f} cores")


@contextlib.contextmanager
def timed_calls() -> Iterator[list[float]]:
    "The seconds of each call of OpenCV and of each read of a file, while the block runs."
    inside, names = [], ("imdecode", "resize", "sepFilter2D", "cvtColor", "flip", "transpose")
    originals = [(cv2, name, getattr(cv2, name)) for name in names] + [(Path, "read_bytes", Path.read_bytes)]

    def timed(function: Callable) -> Callable:
        def call(*given, **options):
            begun = time.thread_time()
            try:
                return function(*given, **options)
            finally:
                inside.append(time.thread_time() - begun)

        return call

    for owner, name, function in originals:
        setattr(owner, name, timed(function))
    try:
        yield inside
    finally:
        for owner, name, function in originals:
            setattr(owner, name, function)


def thread_seconds(function: Callable) -> float:
    begun = time.thread_time()
    function()
    return time.thread_time() - begun
