"""Photos through a model in batches, in order: for a Classifier and for an Ensemble."""

import contextlib
import functools
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Protocol

import numpy as np

from export.reading.prepare import Photo
from export.reading.readers import Readers
from export.runtime.batching import in_batches
from export.runtime.model_threads import model_threads
from export.runtime.profiler import Stopwatch, Watch, unwatched
from toolkit.machine import cores

ON_GPU, RUNNERS = 4, 2
"""On a GPU, the batches in flight (two are computed, in a stream each, while two more are filled), and the threads that
run the model: always the same two, because onnxruntime makes handles of cuDNN and cuBLAS for each new thread."""

Answer = tuple
"(class name, probabilities float32 [classes]) of a photo, and features float32 [n] if they were asked for."


class Model(Protocol):
    "A model that `streamed` runs."

    device: str
    bs: int

    def buffer(self, workers: int, images: np.ndarray | None = None) -> Any:
        "Memory for a batch of prepared photos; in `images`, uint8 [bs, crop, crop, 3], if they are given."

    def fill(self, buffer: Any, start: int, photos: Sequence[Photo], watch: Watch) -> list[Exception | None]:
        "Prepare the photos into the buffer from index `start` on; return for each its error, or None."

    def answers(self, buffer: Any, count: int, stop: Any) -> Iterable[Answer]:
        "The answers to the first `count` photos of the buffer. stop: onnxruntime's RunOptions, which can end the run."

    def warm_up(self, stop: Any) -> None:
        "Run the model once, on black photos."

    def reader_settings(self) -> tuple[tuple[int, ...], dict]:
        "The shape of a batch and the preprocess dict, for processes that read."


def in_flight(device: str, workers: int) -> int:
    "The largest number of batches in flight. On a CPU each of `workers` threads computes one, and two more wait."
    return ON_GPU if device != "cpu" else workers + 2 if workers else 1


def runners(device: str, workers: int, processes: bool) -> int:
    "The number of threads that only run the model: on a GPU, and on a CPU if processes read."
    return min(workers, RUNNERS) if device != "cpu" else workers if processes else 0


def streamed(
    model: Model, photos: Iterable[Photo], workers: int, watch: Watch = unwatched, readers: Readers | None = None
) -> Iterator[Answer | Exception]:
    """Yield the answer to each photo in turn, or the error if it can't be read.

    workers: threads that read, decode and crop, see `export.runtime.batching`; 0 for the calling thread. readers:
    processes that do it instead, for photos that are paths; they serve one call. The same threads run the model, or
    `runners` separate ones. `in_flight` batches are in memory. If it is closed early, it stops the model.
    Raises OSError if no process can be started.
    """
    import onnxruntime

    stop = onnxruntime.RunOptions()
    count = runners(model.device, workers, readers is not None)
    warm_up = functools.partial(model.warm_up, stop) if readers is not None and model.device != "cpu" else None
    with (
        _reading(model, workers, watch, readers) as (buffers, fill, end_reading),
        model_threads(warm_up, count) as run,
    ):

        def break_off() -> None:
            stop.terminate = True
            end_reading()

        answers = functools.partial(_answers, model, watch, stop)
        batches = in_batches(photos, buffers, model.bs, fill, answers, workers, break_off, run)
        with contextlib.closing(batches):
            while batch := _next(batches, watch):
                yield from batch


def labelled(model: Any, photos: Sequence[Photo]) -> list[Answer]:
    "The answers of `model.stream` to the photos. Raises the first error."
    answers = list(model.stream(photos, workers=0 if len(photos) == 1 else min(len(photos), cores())))
    for answer in answers:
        if isinstance(answer, Exception):
            raise answer
    return answers


@contextlib.contextmanager
def _reading(
    model: Model, workers: int, watch: Watch, readers: Readers | None
) -> Iterator[tuple[list, Callable, Callable[[], None]]]:
    "Yield buffers, a function that reads photos into them, and one that stops it at once."
    count = in_flight(model.device, workers)
    if readers is None:
        yield [model.buffer(workers) for _ in range(count)], functools.partial(_fill, model, watch), lambda: None
        return
    images = readers.open(count, *model.reader_settings())
    buffers = [model.buffer(workers, each) for each in images]
    memory = {id(buffer): each for buffer, each in zip(buffers, images, strict=True)}

    def fill(buffer: Any, start: int, part: list[Photo]) -> list[Exception | None]:
        return readers.fill(memory[id(buffer)], start, part)

    try:
        yield buffers, fill, readers.break_off
    finally:
        if isinstance(watch, Stopwatch):
            watch.add(readers.seconds)


def _fill(model: Model, watch: Watch, buffer: Any, start: int, part: list[Photo]) -> list[Exception | None]:
    return model.fill(buffer, start, part, watch)


def _answers(model: Model, watch: Watch, stop: Any, buffer: Any, faults: list) -> list:
    "The answer to each photo of a batch, or the error of one that can't be read."
    if all(faults):
        return faults
    with watch("model"):
        answers = model.answers(buffer, len(faults), stop)
    return [fault or answer for fault, answer in zip(faults, answers, strict=True)]


def _next(batches: Iterator[list], watch: Watch) -> list | None:
    "The next batch, or None after the last; the time counts as `wait`."
    with watch("wait"):
        return next(batches, None)
