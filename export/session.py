"""model.onnx -> a session on the device that was asked for, or an error; and a classifier of photos around it.

Needs onnxruntime, numpy and the toolkit's photo reading: no torch.
"""

import contextlib
import functools
import itertools
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from export.card import check_interface, content, first_line, read_card
from export.device import PROVIDERS, choose_device, cores
from export.stopwatch import Watch, unwatched
from toolkit.photo import read_photo
from toolkit.preprocess import prepare

if TYPE_CHECKING:
    import onnxruntime

TTA = ["none", "flip"]


def open_session(model: str | Path, device: str = "auto", threads: int | None = None) -> "onnxruntime.InferenceSession":
    """The model, loaded on `device`: cpu, cuda, tensorrt, or auto (CUDA, else the CPU; says which).

    threads: how many the CPU computes with; None for one a core.
    Raises ValueError for a device that is not to be had, with the line that brings a missing library, and for a file
    that is not a model of ours; OSError where it can't be read.
    """
    import onnxruntime

    data, device = content(Path(model)), choose_device(device)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # what goes wrong is raised; the log would say it a second time
    options.intra_op_num_threads = threads or 0
    options.add_session_config_entry("session.load_model_format", "ONNX")
    # threads that spin while they wait take the cores from those that decode: 145 images/s, not 108, on 2 cores
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    try:
        session = onnxruntime.InferenceSession(data, options, PROVIDERS[device], enable_fallback=0)
    except Exception as error:  # onnxruntime's exceptions have no base of their own
        raise ValueError(
            f"{model} is not a model that onnxruntime can load on {device}: {first_line(error)}"
        ) from error
    if session.get_providers()[0] != PROVIDERS[device][0]:  # it falls back without an error
        raise ValueError(f"device {device}: onnxruntime loaded the model on {session.get_providers()[0]} instead")
    check_interface(session, model)
    return session


def device_of(session: "onnxruntime.InferenceSession") -> str:
    "cpu, cuda or tensorrt: where the session really runs."
    return next(device for device, names in PROVIDERS.items() if names[0] == session.get_providers()[0])


# Photos -> labels


class Classifier:
    """A model file that labels photos: `labels, probabilities = Classifier("model.onnx")(["a.jpg", array])`.

    Holds no state that a call changes: any number of threads may share one.
    """

    def __init__(
        self, model: str | Path, device: str = "auto", bs: int = 32, threads: int | None = None, tta: str = "none"
    ):
        """bs: images a batch. threads: how many the CPU computes with; None for one a core.
        tta: flip for the mean of the probabilities of each image and of its mirror, at twice the time; or none.
        """
        if tta not in TTA:
            raise ValueError(f"unknown tta {tta!r}: choose one of {', '.join(TTA)}")
        self.model, self.tta = Path(model), tta
        self.session = open_session(model, device, threads)
        self.card = read_card(self.session, model)
        self.device = device_of(self.session)
        self.bs = bs
        self.pads = self.device != "cpu"  # CUDA searches its convolutions again for every new shape

    def __call__(self, photos: Path | str | Sequence[Path | str | bytes | np.ndarray]) -> tuple[list[str], np.ndarray]:
        """The class name of each photo, and probabilities float32 [n, classes] in the order of `card.classes`.

        photos: paths, file contents, or uint8 [height, width, 3] RGB arrays of any size; or one path.
        Raises FileNotFoundError or ValueError for the first one that can't be read.
        """
        photos = [photos] if isinstance(photos, str | Path) else photos
        answers = list(self.stream(photos, workers=0 if len(photos) == 1 else min(len(photos), cores())))
        for answer in answers:
            if isinstance(answer, Exception):
                raise answer
        labels = [label for label, _ in answers]
        return labels, np.array([row for _, row in answers], np.float32).reshape(len(labels), len(self.card.classes))

    def stream(
        self, photos: Iterable[str | Path | bytes | np.ndarray], workers: int, watch: Watch = unwatched
    ) -> Iterator[tuple[str, np.ndarray] | Exception]:
        """(class name, probabilities float32 [classes]) of each photo in turn, or what kept it from being read.

        `workers` threads decode and crop while the model runs; at most three batches are in memory.
        """
        prepared = _in_order(functools.partial(self._prepared, watch=watch), photos, workers, ahead=2 * self.bs)
        with contextlib.closing(prepared):
            while batch := self._next_batch(prepared, watch):
                read = [photo for photo in batch if isinstance(photo, np.ndarray)]
                answers = zip(*self._scores_of(read, watch), strict=True) if read else iter(())
                yield from (next(answers) if isinstance(photo, np.ndarray) else photo for photo in batch)

    def _next_batch(self, prepared: Iterator, watch: Watch) -> list:
        with watch("wait"):
            return list(itertools.islice(prepared, self.bs))

    def _scores_of(self, photos: list[np.ndarray], watch: Watch) -> tuple[list[str], np.ndarray]:
        with watch("copy"):
            images = np.stack(photos)
        with watch("model"):
            return self.scores(images)

    def scores(self, images: np.ndarray) -> tuple[list[str], np.ndarray]:
        "The class names and probabilities float32 [n, classes] of prepared images, uint8 [n, crop, crop, 3] RGB."
        logits, probabilities = self._run(images)
        if self.tta == "flip":
            probabilities = (probabilities + self._run(np.ascontiguousarray(images[:, :, ::-1]))[1]) / 2
            logits = probabilities
        return [self.card.classes[index] for index in logits.argmax(1)], probabilities

    def _run(self, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        "Logits and probabilities; raises ValueError where they are not what the card says."
        missing = self.bs - len(images) if self.pads else 0
        batch = np.pad(images, ((0, missing), (0, 0), (0, 0), (0, 0))) if missing > 0 else images
        try:
            logits, probabilities = self.session.run(["logits", "probabilities"], {"image": batch})
        except Exception as error:
            raise ValueError(
                f"{self.model} failed on a batch of {len(batch)} on {self.device}: {first_line(error)}\n"
                "where memory ran out, a smaller --bs helps"
            ) from error
        logits, probabilities = logits[: len(images)], probabilities[: len(images)]
        expected = (len(images), len(self.card.classes))
        if logits.shape != expected or probabilities.shape != expected:
            raise ValueError(f"{self.model}: probabilities of shape {probabilities.shape}, expected {expected}")
        if not np.isfinite(probabilities).all():
            raise ValueError(f"{self.model} gives probabilities that are no numbers: export it again in fp32")
        return logits, probabilities

    def _prepared(self, photo, watch: Watch) -> np.ndarray | Exception:
        try:
            if isinstance(photo, np.ndarray):
                if photo.dtype != np.uint8 or photo.ndim != 3 or photo.shape[2] != 3 or photo.size == 0:
                    raise ValueError(f"array {photo.dtype} {photo.shape}: expected uint8 [height, width, 3] RGB")
            else:
                _warm(photo, watch)
                with watch("decode"):
                    photo = read_photo(photo)
            with watch("crop"):
                return prepare(photo, self.card.preprocess)
        except (ValueError, OSError) as error:
            return error


def _warm(photo: str | Path | bytes, watch: Watch) -> None:
    "While it is watched, reads the file a first time, so that reading and decoding can be told apart."
    if watch is unwatched or isinstance(photo, bytes) or not Path(photo).is_file():
        return
    with watch("read"):
        Path(photo).read_bytes()


def _in_order(function: Callable, items: Iterable, workers: int, ahead: int) -> Iterator:
    "function(item) for each item, in order, by `workers` threads (0: this one), at most `ahead` of them early."
    if workers == 0:
        yield from map(function, items)
        return
    pool, waiting = ThreadPoolExecutor(workers), deque()
    try:
        for item in items:
            waiting.append(pool.submit(function, item))
            if len(waiting) > ahead:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)
