"""A classifier of photos around a model.onnx. It needs onnxruntime, numpy and OpenCV, but no torch."""

import functools
import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from export.reading.prepare import Photo, as_several, fill
from export.reading.readers import Readers
from export.runtime.batch_size import choose_bs
from export.runtime.buffers import FEATURES, OUTPUTS, BoundBuffer, Buffer, MemoryBuffer
from export.runtime.metadata import Card, check_outputs, content, feature_size, read_card
from export.runtime.open_session import device_of, opened
from export.runtime.profiler import Watch, unwatched
from export.runtime.progress import print_line
from export.runtime.providers import choose_device
from export.streaming import Answer, in_flight, labelled, runners, streamed
from toolkit.errors import first_line
from toolkit.machine import cores

if TYPE_CHECKING:
    import onnxruntime

TTA = ["none", "flip"]


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
        features: bool = False,
    ):
        """device: auto is CUDA, else the CPU. bs: batch size; auto chooses by the model and the free memory.
        threads: threads with which the CPU computes a batch; None for one per core.
        tta: flip for the mean of the probabilities of each image and of its mirror image, at twice the time; or none.
        features: give the features of each image too, float32 [n]; with flip their mean.

        Raises ValueError for a device that can't be used, with the line that installs a missing library, for a file
        that is not a model of ours, and for one without the features asked for; OSError if it can't be read.
        """
        if tta not in TTA:
            raise ValueError(f"unknown tta {tta!r}: choose one of {', '.join(TTA)}")
        self.model, self.tta, self.threads = Path(model), tta, threads
        data, device = content(self.model), choose_device(device)
        with ThreadPoolExecutor(1) as pool:  # 0.13 s for 236 MB, while the session is made
            checksum = pool.submit(hashlib.sha256, data)
            self.session = opened(model, data, device, threads)
        self.checksum, self.size = checksum.result().hexdigest(), len(data)
        self.card, self.device = self._card(), device_of(self.session)
        self.feature_size = feature_size(self.session)
        if features and self.feature_size is None:
            raise ValueError(
                f"{model} has no output features: export it with them, `python -m export.to_onnx RUN --features`"
            )
        self.outputs = [*OUTPUTS, FEATURES] if features else OUTPUTS
        self.pads = self.device != "cpu"  # for every new shape cuDNN plans its convolutions again
        self.bs = choose_bs(bs, self.device, self.size, self.card.preprocess["crop"], batches_at_once(self.device))

    def _card(self) -> Card:
        "The card of the file. With `tta` it promises no precision: its threshold was chosen without."
        card = read_card(self.session, self.model)
        if self.tta == "none" or card.promise is None:
            return card
        print_line(f"{self.model}: its threshold was chosen without --tta {self.tta}, so no answer is unsure")
        return replace(card, promise=None)

    def __reduce__(self) -> tuple[Callable, tuple]:
        "Reopen the file with the device and batch size that were chosen."
        options = (self.device, self.bs, self.threads, self.tta, FEATURES in self.outputs)
        return _reopened, (self.model.absolute(), options, self.checksum)

    def __call__(self, photos: Photo | Sequence[Photo]) -> tuple:
        """Return the class name of each photo, and probabilities float32 [n, classes] in the order of `card.classes`;
        with features also these, float32 [n, features].

        Raises FileNotFoundError or ValueError for the first photo that can't be read.
        """
        answers = labelled(self, as_several(photos))
        sizes = (len(self.card.classes), self.feature_size)[: len(self.outputs) - 1]
        figures = [[answer[index] for answer in answers] for index in range(1, 1 + len(sizes))]
        arrays = (np.array(each, np.float32).reshape(len(answers), n) for each, n in zip(figures, sizes, strict=True))
        return [answer[0] for answer in answers], *arrays

    def stream(
        self, photos: Iterable[Photo], workers: int, watch: Watch = unwatched, readers: Readers | None = None
    ) -> Iterator[Answer | Exception]:
        """Yield (class name, probabilities float32 [classes]) of each photo in turn, and its features if they are
        asked for; or the error if it can't be read. See `export.streaming.streamed`.
        """
        return streamed(self, photos, workers, watch, readers)

    def scores(self, images: np.ndarray) -> tuple:
        """The class names and probabilities float32 [n, classes] of prepared images, uint8 [n, crop, crop, 3] RGB; with
        features also these.
        """
        return self._scores(images, self.buffer(workers=0).run)

    def in_flight(self, workers: int) -> int:
        return in_flight(self.device, workers)

    def runners(self, workers: int, processes: bool) -> int:
        return runners(self.device, workers, processes)

    def buffer(self, workers: int, images: np.ndarray | None = None) -> Buffer:
        "A buffer in the memory `images`, or in memory of its own."
        shape = self.reader_settings()[0]
        if self.device != "cpu" and workers:
            return BoundBuffer(self.session, shape, images=images, outputs=self.outputs)
        own = np.empty(shape, np.uint8) if images is None else images
        return MemoryBuffer(self.session, own, self.pads, self.outputs)

    def fill(self, buffer: Buffer, start: int, photos: Sequence[Photo], watch: Watch) -> list[Exception | None]:
        return fill(buffer.images, start, photos, self.card.preprocess, watch)

    def answers(self, buffer: Buffer, count: int, stop: "onnxruntime.RunOptions") -> Iterator[Answer]:
        scores = self._scores(buffer.images[:count], functools.partial(buffer.run, options=stop))
        return zip(*scores, strict=True)

    def warm_up(self, stop: "onnxruntime.RunOptions") -> None:
        self.session.run(OUTPUTS, {"image": np.zeros(self.reader_settings()[0], np.uint8)}, stop)

    def reader_settings(self) -> tuple[tuple[int, ...], dict]:
        crop = self.card.preprocess["crop"]
        return (self.bs, crop, crop, 3), self.card.preprocess

    def _scores(self, images: np.ndarray, run: Callable) -> tuple:
        "The class names, probabilities and perhaps features of prepared images, by the model's `run`."
        logits, *figures = self.outputs_of(images, run)
        return [self.card.classes[index] for index in logits.argmax(1)], *figures

    def outputs_of(self, images: np.ndarray, run: Callable) -> list[np.ndarray]:
        """Logits, probabilities and perhaps features of prepared images; with flip their mean, and for the logits the
        probabilities.
        """
        outputs = self._checked(images, run)
        if self.tta == "flip":
            mirrored = np.ascontiguousarray(images[:, :, ::-1])
            other = self._checked(mirrored, run)
            means = [(one + two) / 2 for one, two in zip(outputs[1:], other[1:], strict=True)]
            outputs = [means[0], *means]
        return outputs

    def _checked(self, images: np.ndarray, run: Callable) -> list[np.ndarray]:
        "The outputs. Raises ValueError if the model fails, or gives other shapes than its card says."
        try:
            outputs = run(images)
        except Exception as error:  # onnxruntime's exceptions have no common base
            raise ValueError(
                f"{self.model} failed on a batch of {len(images)} on {self.device}: {first_line(error)}\n"
                "if memory ran out, a smaller --bs helps"
            ) from error
        check_outputs(self.model, outputs, (len(images), len(self.card.classes)), self.feature_size)
        return outputs


def batches_at_once(device: str) -> int:
    "The number of batches that are computed at the same time, by which `choose_bs` shares the memory."
    return runners(device, cores(), False) or in_flight(device, cores())


def _reopened(model: Path, options: tuple, checksum: str) -> Classifier:
    "Raises as Classifier does, and ValueError if the file has changed."
    classifier = Classifier(model, *options)
    if classifier.checksum != checksum:
        raise ValueError(f"{model} has changed since this classifier was made from it: make another one")
    return classifier
