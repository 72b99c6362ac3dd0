"""model.onnx -> a session on the device that was asked for, or an error; and a classifier of photos around it.

Needs onnxruntime, numpy and the toolkit's photo reading: no torch.
"""

import contextlib
import functools
import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from export.reading.prepare import Photo, fill
from export.reading.readers import Readers
from export.runtime.batch_size import choose_bs
from export.runtime.batching import in_batches
from export.runtime.buffers import OUTPUTS, BoundBuffer, Buffer, MemoryBuffer
from export.runtime.metadata import content, first_line, read_card
from export.runtime.open_session import device_of, opened
from export.runtime.profiler import Stopwatch, Watch, unwatched
from export.runtime.providers import choose_device
from toolkit.machine import cores
from toolkit.threads import threads

if TYPE_CHECKING:
    import onnxruntime

AT_ONCE = 16
"Images of a batch. The last one is filled up on a GPU, where each new shape is planned for anew."
TTA = ["none", "flip"]

ON_GPU, RUNNERS = 4, 2
"""Batches begun there: two that are computed, in a stream each, while two more are filled. Two threads run the model,
always the same: for each other one onnxruntime would make handles of cuDNN and cuBLAS, while the GPU waits."""


def open_session(model: str | Path, device: str = "auto", threads: int | None = None) -> "onnxruntime.InferenceSession":
    """The model, loaded on `device`: cpu, cuda, tensorrt, or auto (CUDA, else the CPU; says which).

    threads: how many the CPU computes with; None for one a core.
    Raises ValueError for a device that is not to be had, with the line that brings a missing library, and for a file
    that is not a model of ours; OSError where it can't be read.
    """
    return opened(model, content(Path(model)), choose_device(device), threads)


class Classifier:
    """A model file that labels photos: `labels, probabilities = Classifier("model.onnx")(["a.jpg", array])`.

    Holds no state that a call changes: any number of threads may share one. Pickled, as for a spawned process, it is
    its file's path and its options: the file is opened again there, and must be the same.
    """

    def __init__(
        self,
        model: str | Path,
        device: str = "auto",
        bs: int | str = "auto",
        threads: int | None = None,
        tta: str = "none",
    ):
        """bs: images a batch; auto: what suits the model and the memory there is.
        threads: how many the CPU computes a batch with; None for one a core.
        tta: flip for the mean of the probabilities of each image and of its mirror, at twice the time; or none.
        """
        if tta not in TTA:
            raise ValueError(f"unknown tta {tta!r}: choose one of {', '.join(TTA)}")
        self.model, self.tta, self.threads = Path(model), tta, threads
        data, device = content(self.model), choose_device(device)
        with ThreadPoolExecutor(1) as pool:  # 0.13 s for 236 MB, while the session is made
            checksum = pool.submit(hashlib.sha256, data)
            self.session = opened(model, data, device, threads)
        self.checksum = checksum.result().hexdigest()
        self.card, self.device = read_card(self.session, model), device_of(self.session)
        self.pads = self.device != "cpu"  # cuDNN plans its convolutions again for every new shape
        computed = self.runners(cores(), False) or self.in_flight(cores())
        self.bs = choose_bs(bs, self.device, len(data), self.card.preprocess["crop"], computed)

    def __reduce__(self) -> tuple[Callable, tuple]:
        "What opens the same again: the device and the batch that were chosen are options then."
        return _reopened, (self.model.absolute(), self.device, self.bs, self.threads, self.tta, self.checksum)

    def __call__(self, photos: Photo | Sequence[Photo]) -> tuple[list[str], np.ndarray]:
        """The class name of each photo, and probabilities float32 [n, classes] in the order of `card.classes`.

        Raises FileNotFoundError or ValueError for the first one that can't be read.
        """
        photos = [photos] if isinstance(photos, str | Path | bytes) else photos
        answers = list(self.stream(photos, workers=0 if len(photos) == 1 else min(len(photos), cores())))
        for answer in answers:
            if isinstance(answer, Exception):
                raise answer
        labels = [label for label, _ in answers]
        return labels, np.array([row for _, row in answers], np.float32).reshape(len(labels), len(self.card.classes))

    def stream(
        self, photos: Iterable[Photo], workers: int, watch: Watch = unwatched, readers: Readers | None = None
    ) -> Iterator[tuple[str, np.ndarray] | Exception]:
        """(class name, probabilities float32 [classes]) of each photo in turn, or what kept it from being read.

        `workers` threads read, decode and crop, as `batching` tells; 0 for the one that asks. readers: processes
        that do it instead, for photos that are paths; they serve one call. The same threads run the model, or `runners`
        apart. In memory are `in_flight` batches. Closed early, it breaks off what the model computes.
        Raises OSError if no process can be started.
        """
        import onnxruntime

        stop = onnxruntime.RunOptions()
        answers = functools.partial(self._answers, watch, stop)
        count = self.runners(workers, readers is not None)
        with (
            self._reading(workers, watch, readers) as (buffers, read, end_reading),
            self._running(count, stop, warm=readers is not None) as run,
        ):

            def break_off() -> None:
                stop.terminate = True
                end_reading()

            def fill_places(buffer: Buffer, start: int, part: list[Photo]) -> list[Exception | None]:
                return read(buffer.images, start, part)

            batches = in_batches(photos, buffers, self.bs, fill_places, answers, workers, break_off, run)
            with contextlib.closing(batches):
                while batch := _next(batches, watch):
                    yield from batch

    def scores(self, images: np.ndarray) -> tuple[list[str], np.ndarray]:
        "The class names and probabilities float32 [n, classes] of prepared images, uint8 [n, crop, crop, 3] RGB."
        return self._scores(images, self._buffer(workers=0).run)

    def in_flight(self, workers: int) -> int:
        "How many batches `workers` threads have begun, at most. On a CPU each computes one, and two more wait."
        return ON_GPU if self.device != "cpu" else workers + 2 if workers else 1

    def runners(self, workers: int, processes: bool) -> int:
        "How many threads run the model and do nothing else: a GPU's, and those of a CPU that need not read."
        return min(workers, RUNNERS) if self.device != "cpu" else workers if processes else 0

    @contextlib.contextmanager
    def _reading(
        self, workers: int, watch: Watch, readers: Readers | None
    ) -> Iterator[tuple[list[Buffer], Callable, Callable[[], None]]]:
        "Buffers, what reads photos into them, and what ends it at once."
        count = self.in_flight(workers)
        if readers is None:
            read = functools.partial(fill, preprocess=self.card.preprocess, watch=watch)
            yield [self._buffer(workers) for _ in range(count)], read, lambda: None
            return
        images = readers.open(count, self._shape(), self.card.preprocess)
        try:
            yield [self._buffer(workers, each) for each in images], readers.fill, readers.break_off
        finally:
            if isinstance(watch, Stopwatch):
                watch.add(readers.seconds)

    @contextlib.contextmanager
    def _running(self, count: int, options: "onnxruntime.RunOptions", warm: bool) -> Iterator[Callable[..., Future]]:
        """A function that has one of `count` threads run the model; for 0 the thread that calls it does.

        warm: on a GPU each first runs it on black photos, while processes start and read: its handles are made by then.
        For a few photos it would take longer than they do.
        """
        with threads(count) as run:
            if warm and self.device != "cpu":
                black = np.zeros(self._shape(), np.uint8)
                for _ in range(count):
                    run(self.session.run, OUTPUTS, {"image": black}, options)
            yield run

    def _shape(self) -> tuple[int, ...]:
        return self.bs, self.card.preprocess["crop"], self.card.preprocess["crop"], 3

    def _buffer(self, workers: int, images: np.ndarray | None = None) -> Buffer:
        "images: the memory to use; its own if None."
        if self.device != "cpu" and workers:
            return BoundBuffer(self.session, self._shape(), images=images)
        return MemoryBuffer(self.session, np.empty(self._shape(), np.uint8) if images is None else images, self.pads)

    def _answers(self, watch: Watch, stop: "onnxruntime.RunOptions", buffer: Buffer, faults: list) -> list:
        "The class name and probabilities of each photo of a batch, or what kept it from being read."
        if all(faults):
            return faults
        with watch("model"):
            scores = self._scores(buffer.images[: len(faults)], functools.partial(buffer.run, options=stop))
        return [fault or answer for fault, answer in zip(faults, zip(*scores, strict=True), strict=True)]

    def _scores(self, images: np.ndarray, run: Callable) -> tuple[list[str], np.ndarray]:
        logits, probabilities = self._outputs(images, run)
        if self.tta == "flip":
            mirrored = np.ascontiguousarray(images[:, :, ::-1])
            logits = probabilities = (probabilities + self._outputs(mirrored, run)[1]) / 2
        return [self.card.classes[index] for index in logits.argmax(1)], probabilities

    def _outputs(self, images: np.ndarray, run: Callable) -> tuple[np.ndarray, np.ndarray]:
        "Logits and probabilities; raises ValueError where they are not what the card says."
        try:
            logits, probabilities = run(images)
        except Exception as error:  # onnxruntime's exceptions have no base of their own
            raise ValueError(
                f"{self.model} failed on a batch of {len(images)} on {self.device}: {first_line(error)}\n"
                "where memory ran out, a smaller --bs helps"
            ) from error
        expected = (len(images), len(self.card.classes))
        if logits.shape != expected or probabilities.shape != expected:
            raise ValueError(f"{self.model}: probabilities of shape {probabilities.shape}, expected {expected}")
        if not np.isfinite(probabilities).all():
            raise ValueError(f"{self.model} gives probabilities that are no numbers: export it again in fp32")
        return logits, probabilities


def _reopened(model: Path, device: str, bs: int, threads: int | None, tta: str, checksum: str) -> Classifier:
    "Raises what Classifier does, and ValueError if the file is another one by now."
    classifier = Classifier(model, device, bs, threads, tta)
    if classifier.checksum != checksum:
        raise ValueError(f"{model} has changed since this classifier was made of it: make another one")
    return classifier


def _next(batches: Iterator[list], watch: Watch) -> list | None:
    with watch("wait"):
        return next(batches, None)


def scores(classifier: Classifier, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    "Logits and probabilities, float32 [n, classes], of prepared images, uint8 [n, crop, crop, 3]; numbers or not."
    buffer = MemoryBuffer(classifier.session, np.empty((AT_ONCE, *images.shape[1:]), np.uint8), classifier.pads)
    try:
        parts = [buffer.run(images[start : start + AT_ONCE]) for start in range(0, len(images), AT_ONCE)]
    except Exception as error:  # onnxruntime's exceptions have no base of their own
        raise ValueError(f"{classifier.model} can't be run on {classifier.device}: {first_line(error)}") from error
    logits, probabilities = (np.concatenate(part) for part in zip(*parts, strict=True))
    return logits, probabilities
