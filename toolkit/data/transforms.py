"""From a file to the model's input: fastai transforms that read, label, augment or prepare, and normalise."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from fastai.data.transforms import Normalize
from fastai.vision.core import TensorImage
from fasttransform import Transform
from PIL import Image, ImageOps

from toolkit.data.augment import reseed
from toolkit.data.cache import PhotoCache
from toolkit.data.photo import read_photo, read_reduced, to_rgb
from toolkit.data.preprocess import prepare, smallest_side, square

SQUARE = 4  # sides of the network's square that a whole photo's square has in training, at most


class Photo(np.ndarray):
    "A decoded photo, uint8 [height, width, 3] RGB. The type of its own lets fastai's transforms tell it from a label."

    whole: tuple[int, int] | None = None  # height and width before `read_reduced` reduced it; None if it did not


SOURCES = (Path, str, bytes, Image.Image, np.ndarray)
"""The types that `dls.test_dl` and `learn.predict` accept. fastai reads each transform's `input_types`."""


class ReadReduced(Transform):
    "Path or bytes of a file -> Photo, as large as `prepare` needs it. Validation, test and export read this way."

    split_idx, input_types = 1, SOURCES

    def __init__(self, preprocess: dict[str, Any], cache: PhotoCache | None = None):
        self.shorter, self.cache = smallest_side(preprocess), cache

    def encodes(self, source: Path | str | bytes) -> Photo:
        kept = self.cache and self.cache.read(source, valid=True)
        photo, whole = kept or read_reduced(source, self.shorter)
        photo = photo.view(Photo)
        photo.whole = whole
        return photo


class ReadPhoto(Transform):
    """Path, bytes of a file, PIL image or uint8 RGB array -> Photo, whole or as the cache keeps it for training.

    A Photo stays as it is.
    """

    input_types = SOURCES

    def __init__(self, cache: PhotoCache | None = None):
        self.cache = cache

    def encodes(self, source: Path | str | bytes | Image.Image | np.ndarray) -> Photo:
        if isinstance(source, Photo):
            return source
        if isinstance(source, Image.Image):
            source = photo_of(source)
        if not isinstance(source, np.ndarray):
            kept = self.cache and self.cache.read(source, valid=False)
            source = kept[0] if kept else read_photo(source)
        return source.view(Photo)


def photo_of(image: Image.Image) -> np.ndarray:
    "Return a PIL image as `read_photo` reads its file: uint8 [height, width, 3] RGB, upright, transparent over white."
    return np.array(to_rgb(ImageOps.exif_transpose(image)))


class Label(Transform):
    "Path -> the name of its class."

    def __init__(self, labels: dict[Path, str]):
        self.labels = labels

    def encodes(self, photo: Path) -> str:
        if photo not in self.labels:
            raise ValueError(
                f"{photo} is neither in train nor in valid, so it has no label: leave with_labels out; "
                "`python -m export.verify` judges a model by labelled photos"
            )
        return self.labels[photo]


@dataclass
class SamplerState:
    "The state of the random draws. The loaders of one DataLoaders share it, and their workers have copies."

    seed: int
    next_epoch: int = 0  # of the next pass over a training set; a callback may set it, and `skip`
    skip: int = 0  # photos at the start of that pass that are left out, because they were trained on before
    epoch: int = 0
    sample: int = 0
    sampling_weights: dict[Path, float] | None = None  # for draws with replacement; None: each photo once an epoch


class Augment(Transform):
    "The training transform: Photo -> TensorImage uint8 [3, size, size]."

    split_idx = 0

    def __init__(self, transform: Any, sampler_state: SamplerState, preprocess: dict[str, Any]):
        self.transform, self.sampler_state, self.preprocess = transform, sampler_state, preprocess

    def encodes(self, photo: Photo) -> TensorImage:
        reseed(self.transform, self.sampler_state.seed, self.sampler_state.epoch, self.sampler_state.sample)
        return _tensor(self.transform(image=self._whole(np.asarray(photo)))["image"])

    def _whole(self, photo: np.ndarray) -> np.ndarray:
        "The photo as it is; with --fit pad or squash the whole photo as a square, of which the transform takes parts."
        if "fit" not in self.preprocess:
            return photo
        return square(photo, photo.shape[:2], self.preprocess, min(max(photo.shape), SQUARE * self.preprocess["crop"]))


class ResizeCenterCrop(Transform):
    "The validation and test transform, which export uses too: Photo -> TensorImage uint8 [3, crop, crop]."

    split_idx = 1

    def __init__(self, preprocess: dict[str, Any]):
        self.preprocess = preprocess

    def encodes(self, photo: Photo) -> TensorImage:
        return _tensor(prepare(np.asarray(photo), self.preprocess, photo.whole))


def _tensor(photo: np.ndarray) -> TensorImage:
    return TensorImage(torch.from_numpy(np.ascontiguousarray(photo)).permute(2, 0, 1))


class NormalizeInPlace(Normalize):
    "fastai's, to the bit, in a tenth of the time: in place, and with mean and std in the memory layout of the pixels."

    def encodes(self, batch: TensorImage) -> TensorImage:  # float and new, as IntToFloatTensor gives it
        mean, std = (torch.empty_like(batch[:1]).copy_(value) for value in (self.mean, self.std))
        return batch.sub_(mean).div_(std)
