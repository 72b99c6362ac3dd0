"""An ensemble: the mean of the probabilities of several model files of the same classes."""

import functools
import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from export.reading.prepare import Photo, as_several, fill_each
from export.reading.readers import Readers
from export.runtime.batch_size import choose_bs
from export.runtime.buffers import Buffer
from export.runtime.class_order import class_order
from export.runtime.profiler import Watch, unwatched
from export.runtime.providers import choose_device
from export.session import Classifier, batches_at_once
from export.streaming import Answer, in_flight, labelled, runners, streamed

if TYPE_CHECKING:
    import onnxruntime


class Batch(NamedTuple):
    "The memory of a batch: photos prepared for each size, and what each file runs on."

    images: list[np.ndarray]
    "For each of the ensemble's `sizes`, uint8 [bs, crop, crop, 3]."
    buffers: list[Buffer]
    "For each file."


class Ensemble:
    """Model files that label photos together: `labels, probabilities = Ensemble(["a.onnx", "b.onnx"])(["a.jpg"])`.

    The probabilities are the mean of the files' calibrated probabilities, the label is the class with the largest mean.
    Classes are those of the first file, in its order. A photo is read once, and prepared for each file as that file
    says: files may take photos of different sizes. The files run in turn, so it takes their times together. It is used
    as a Classifier is.
    """

    def __init__(
        self,
        models: Sequence[str | Path],
        device: str = "auto",
        bs: int | str = "auto",
        threads: int | None = None,
        tta: str = "none",
    ):
        """The options are those of Classifier, for every file.

        Raises ValueError for less than two files, for files of other classes, and as Classifier does.
        """
        if len(models) < 2:
            raise ValueError(f"{len(models)} model files: an ensemble has two or more")
        self.tta, device = tta, choose_device(device)
        self.classifiers = [Classifier(model, device, 1, threads, tta) for model in models]
        first, self.device = self.classifiers[0], device
        self.orders = [
            class_order(each.model, each.card.classes, first.model, first.card.classes) for each in self.classifiers
        ]
        self.sizes = _distinct([each.card.preprocess for each in self.classifiers])
        self.card = replace(first.card, recipe=None, metrics=None, calibration=None, verification=None, promise=None)
        self.checksum = hashlib.sha256("".join(each.checksum for each in self.classifiers).encode()).hexdigest()
        self.bs = self._bs(bs)
        for each in self.classifiers:
            each.bs = self.bs

    def __call__(self, photos: Photo | Sequence[Photo]) -> tuple[list[str], np.ndarray]:
        """Return the class name of each photo, and probabilities float32 [n, classes] in the order of `card.classes`.

        Raises FileNotFoundError or ValueError for the first photo that can't be read.
        """
        answers = labelled(self, as_several(photos))
        rows = np.array([row for _, row in answers], np.float32)
        return [label for label, _ in answers], rows.reshape(len(answers), len(self.card.classes))

    def stream(
        self, photos: Iterable[Photo], workers: int, watch: Watch = unwatched, readers: Readers | None = None
    ) -> Iterator[Answer | Exception]:
        """Yield (class name, probabilities float32 [classes]) of each photo in turn, or the error if it can't be read.

        readers: only if all files take photos of one size. See `export.streaming.streamed`.
        """
        assert readers is None or len(self.sizes) == 1
        return streamed(self, photos, workers, watch, readers)

    def in_flight(self, workers: int) -> int:
        return in_flight(self.device, workers)

    def runners(self, workers: int, processes: bool) -> int:
        return runners(self.device, workers, processes)

    def buffer(self, workers: int, images: np.ndarray | None = None) -> Batch:
        """Memory for a batch. On a CPU the files of one size read the same images; on a GPU each has pinned memory of
        its own, because memory is pinned once, and gets a copy.
        """
        memory, buffers, pins = {}, [], self.device != "cpu" and workers
        for classifier in self.classifiers:
            number = self._size_of(classifier)
            own = None if pins and number in memory else memory.get(number, images)
            buffers.append(classifier.buffer(workers, own))
            memory.setdefault(number, buffers[-1].images)
        return Batch([memory[number] for number in range(len(self.sizes))], buffers)

    def fill(self, batch: Batch, start: int, photos: Sequence[Photo], watch: Watch) -> list[Exception | None]:
        return fill_each(batch.images, start, photos, self.sizes, watch)

    def answers(self, batch: Batch, count: int, stop: "onnxruntime.RunOptions") -> Iterator[Answer]:
        images = [each[:count] for each in batch.images]
        means = self._means(images, [functools.partial(buffer.run, options=stop) for buffer in batch.buffers])
        return zip([self.card.classes[index] for index in means.argmax(1)], means, strict=True)

    def warm_up(self, stop: "onnxruntime.RunOptions") -> None:
        for each in self.classifiers:
            each.warm_up(stop)

    def reader_settings(self) -> tuple[tuple[int, ...], dict]:
        return self.classifiers[0].reader_settings()

    def _means(self, images: list[np.ndarray], runs: list) -> np.ndarray:
        "float32 [n, classes]: the mean of the files' probabilities, summed in float64."
        total = 0.0
        for classifier, run, order in zip(self.classifiers, runs, self.orders, strict=True):
            _, probabilities = classifier.outputs_of(images[self._size_of(classifier)], run)
            total = total + probabilities[:, order].astype(np.float64)
        return (total / len(self.classifiers)).astype(np.float32)

    def _size_of(self, classifier: Classifier) -> int:
        "The index in `sizes` of the file's preprocess dict."
        return next(number for number, each in enumerate(self.sizes) if _alike(each, classifier.card.preprocess))

    def _bs(self, bs: int | str) -> int:
        "The batch size; auto takes the file that needs most memory, as if all were it."
        needed = max(self.classifiers, key=lambda each: each.card.preprocess["crop"])
        size, crop = max(each.size for each in self.classifiers), needed.card.preprocess["crop"]
        return choose_bs(bs, self.device, size, crop, batches_at_once(self.device) * len(self.classifiers))


def _distinct(preprocesses: list[dict]) -> list[dict]:
    "One of each kind; mean and standard deviation do not count, they are in the graph."
    kinds: list[dict] = []
    for each in preprocesses:
        if not any(_alike(each, kind) for kind in kinds):
            kinds.append(each)
    return kinds


def _alike(one: dict, other: dict) -> bool:
    names = one.keys() | other.keys()  # a padded photo shows the mean
    names -= {"std"} if "pad" in (one.get("fit"), other.get("fit")) else {"mean", "std"}
    return all(one.get(name) == other.get(name) for name in names)


def of_one_size(model: Classifier | Ensemble) -> bool:
    "True if a photo is prepared once: processes that read prepare it in one way only."
    return isinstance(model, Classifier) or len(model.sizes) == 1


def opened_model(
    models: Sequence[Path], device: str, bs: int | str, threads: int | None, tta: str, features: bool = False
) -> Classifier | Ensemble:
    "A Classifier for one file, an Ensemble for several. Raises as they do, and ValueError for features of several."
    if len(models) == 1:
        return Classifier(models[0], device, bs, threads, tta, features)
    if features:
        raise ValueError(f"--features with {len(models)} models: their features have no common meaning, give one model")
    return Ensemble(models, device, bs, threads, tta)
