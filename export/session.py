"""A classifier of photos around a model.onnx. It needs onnxruntime, numpy and OpenCV, but no torch."""

import contextlib
import functools
import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from export.reading.prepare import Photo, fill
from export.reading.readers import Readers
from export.runtime.batch_size import choose_bs
from export.runtime.batching import in_batches
from export.runtime.buffers import BoundBuffer, Buffer, MemoryBuffer
from export.runtime.metadata import check_outputs, content, first_line, read_card
from export.runtime.model_threads import model_threads
from export.runtime.open_session import device_of, opened
from export.runtime.profiler import Stopwatch, Watch, unwatched
from export.runtime.providers import choose_device
from toolkit.machine import cores

if TYPE_CHECKING:
    import onnxruntime

TTA = ["none", "flip"]

ON_GPU, RUNNERS = 4, 2
"""On a GPU, the batches in flight (two are computed, in a stream each, while two more are filled), and the threads that
run the model: always the same two, because onnxruntime makes handles of cuDNN and cuBLAS for each new thread."""


class Classifier:
    """A model file that labels photos: `labels, probabilities = Classifier("model.onnx")(["a.jpg", array])`.

    A call changes no state: any number of threads may share one. Pickled, as for a spawned process, it is the path of
    its file and its options: the file is opened again there, and must be the same.
    """

    def __init__(
        self,
        model: str | Path,
        device: str = "auto",
        bs: int | str = "auto",
        threads: int | None = None,
        tta: str = "none",
    ):
        """device: auto is CUDA, else the CPU. bs: batch size; auto chooses by the model and the free memory.
        threads: threads with which the CPU computes a batch; None for one per core.
        tta: flip for the mean of the probabilities of each image and of its mirror image, at twice the time; or none.

        Raises ValueError for a device that can't be used, with the line that installs a missing library, and for a file
        that is not a model of ours; OSError if the file can't be read.
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
        self.pads = self.device != "cpu"  # for every new shape cuDNN plans its convolutions again
        computed = self.runners(cores(), False) or self.in_flight(cores())
        self.bs = choose_bs(bs, self.device, len(data), self.card.preprocess["crop"], computed)

    def __reduce__(self) -> tuple[Callable, tuple]:
        "Reopen the file with the device and batch size that were chosen."
        return _reopened, (self.model.absolute(), self.device, self.bs, self.threads, self.tta, self.checksum)

    def __call__(self, photos: Photo | Sequence[Photo]) -> tuple[list[str], np.ndarray]:
        """Return the class name of each photo, and probabilities float32 [n, classes] in the order of `card.classes`.

        Raises FileNotFoundError or ValueError for the first photo that can't be read.
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
        """Yield (class name, probabilities float32 [classes]) of each photo in turn, or the error if it can't be read.

        workers: threads that read, decode and crop, see `batching`; 0 for the calling thread. readers: processes that
        do it instead, for photos that are paths; they serve one call. The same threads run the model, or `runners`
        separate ones. `in_flight` batches are in memory. If it is closed early, it stops the model.
        Raises OSError if no process can be started.
        """
        import onnxruntime

        stop = onnxruntime.RunOptions()
        answers = functools.partial(self._answers, watch, stop)
        count = self.runners(workers, readers is not None)
        black = np.zeros(self._shape(), np.uint8) if readers is not None and self.device != "cpu" else None
        with (
            self._reading(workers, watch, readers) as (buffers, read, end_reading),
            model_threads(self.session, count, black, stop) as run,
        ):

            def break_off() -> None:
                stop.terminate = True
                end_reading()

            def fill_part(buffer: Buffer, start: int, part: list[Photo]) -> list[Exception | None]:
                return read(buffer.images, start, part)

            batches = in_batches(photos, buffers, self.bs, fill_part, answers, workers, break_off, run)
            with contextlib.closing(batches):
                while batch := _next(batches, watch):
                    yield from batch

    def scores(self, images: np.ndarray) -> tuple[list[str], np.ndarray]:
        "The class names and probabilities float32 [n, classes] of prepared images, uint8 [n, crop, crop, 3] RGB."
        return self._scores(images, self._buffer(workers=0).run)

    def in_flight(self, workers: int) -> int:
        "The largest number of batches in flight. On a CPU each of `workers` threads computes one, and two more wait."
        return ON_GPU if self.device != "cpu" else workers + 2 if workers else 1

    def runners(self, workers: int, processes: bool) -> int:
        "The number of threads that only run the model: on a GPU, and on a CPU if processes read."
        return min(workers, RUNNERS) if self.device != "cpu" else workers if processes else 0

    @contextlib.contextmanager
    def _reading(
        self, workers: int, watch: Watch, readers: Readers | None
    ) -> Iterator[tuple[list[Buffer], Callable, Callable[[], None]]]:
        "Yield buffers, a function that reads photos into them, and one that stops it at once."
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

    def _shape(self) -> tuple[int, ...]:
        return self.bs, self.card.preprocess["crop"], self.card.preprocess["crop"], 3

    def _buffer(self, workers: int, images: np.ndarray | None = None) -> Buffer:
        "A buffer in the memory `images`, or in memory of its own."
        if self.device != "cpu" and workers:
            return BoundBuffer(self.session, self._shape(), images=images)
        return MemoryBuffer(self.session, np.empty(self._shape(), np.uint8) if images is None else images, self.pads)

    def _answers(self, watch: Watch, stop: "onnxruntime.RunOptions", buffer: Buffer, faults: list) -> list:
        "The class name and probabilities of each photo of a batch, or the error of one that can't be read."
        if all(faults):
            return faults
        with watch("model"):
            scores = self._scores(buffer.images[: len(faults)], functools.partial(buffer.run, options=stop))
        return [fault or answer for fault, answer in zip(faults, zip(*scores, strict=True), strict=True)]

    def _scores(self, images: np.ndarray, run: Callable) -> tuple[list[str], np.ndarray]:
        "The class names and probabilities of prepared images, by the model's `run`."
        logits, probabilities = self._outputs(images, run)
        if self.tta == "flip":
            mirrored = np.ascontiguousarray(images[:, :, ::-1])
            logits = probabilities = (probabilities + self._outputs(mirrored, run)[1]) / 2
        return [self.card.classes[index] for index in logits.argmax(1)], probabilities

    def _outputs(self, images: np.ndarray, run: Callable) -> tuple[np.ndarray, np.ndarray]:
        "Logits and probabilities. Raises ValueError if the model fails, or gives other shapes than its card says."
        try:
            logits, probabilities = run(images)
        except Exception as error:  # onnxruntime's exceptions have no common base
            raise ValueError(
                f"{self.model} failed on a batch of {len(images)} on {self.device}: {first_line(error)}\n"
                "if memory ran out, a smaller --bs helps"
            ) from error
        check_outputs(self.model, logits, probabilities, (len(images), len(self.card.classes)))
        return logits, probabilities


def _reopened(model: Path, device: str, bs: int, threads: int | None, tta: str, checksum: str) -> Classifier:
    "Raises as Classifier does, and ValueError if the file has changed."
    classifier = Classifier(model, device, bs, threads, tta)
    if classifier.checksum != checksum:
        raise ValueError(f"{model} has changed since this classifier was made from it: make another one")
    return classifier


def _next(batches: Iterator[list], watch: Watch) -> list | None:
    "The next batch, or None after the last; the time counts as `wait`."
    with watch("wait"):
        return next(batches, None)
