"""Prepare photos for a model. Each process that reads imports this module, so it imports little."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from export.runtime.profiler import Watch, unwatched
from toolkit.data.on_disk.photo_files import file_bytes
from toolkit.data.photo import read_reduced
from toolkit.data.preprocess import prepare, smallest_side

Photo = Path | str | bytes | np.ndarray
"A path, a file's bytes, or uint8 [height, width, 3] RGB of any size."


def as_several(photos: Photo | Sequence[Photo]) -> Sequence[Photo]:
    "One photo as a list of it, several as they are."
    one = isinstance(photos, str | Path | bytes) or isinstance(photos, np.ndarray) and photos.ndim == 3
    return [photos] if one else photos


def prepared(photo: Photo, preprocess: dict, watch: Watch = unwatched) -> np.ndarray:
    """Return a photo as the model takes it, uint8 [crop, crop, 3] RGB.

    Raises FileNotFoundError or ValueError, naming the file, if it can't be read; ValueError for other arrays.
    """
    return prepared_each(photo, [preprocess], watch)[0]


def prepared_each(photo: Photo, preprocesses: Sequence[dict], watch: Watch = unwatched) -> list[np.ndarray]:
    "Return a photo, read once, as each of several models takes it. Raises as `prepared` does."
    whole = None
    if isinstance(photo, np.ndarray):
        if photo.dtype != np.uint8 or photo.ndim != 3 or photo.shape[2] != 3 or photo.size == 0:
            raise ValueError(f"array {photo.dtype} {photo.shape}: expected uint8 [height, width, 3] RGB")
    else:
        name = "<bytes>" if isinstance(photo, bytes) else str(photo)
        with watch("read"):
            data = photo if isinstance(photo, bytes) else file_bytes(Path(photo))
    images = []
    for preprocess in preprocesses:
        if not isinstance(photo, np.ndarray):
            with watch("decode"):
                pixels, whole = read_reduced(data, smallest_side(preprocess), name)
        else:
            pixels = photo
        with watch("crop"):
            images.append(prepare(pixels, preprocess, whole))
    return images


def fill(
    images: np.ndarray, start: int, photos: Sequence[Photo], preprocess: dict, watch: Watch = unwatched
) -> list[Exception | None]:
    """Write the prepared photos into `images` from index `start` on; return for each its error, or None.

    images: uint8 [batch, crop, crop, 3] RGB. A photo that can't be read becomes black.
    """
    return fill_each([images], start, photos, [preprocess], watch)


def fill_each(
    images: Sequence[np.ndarray],
    start: int,
    photos: Sequence[Photo],
    preprocesses: Sequence[dict],
    watch: Watch = unwatched,
) -> list[Exception | None]:
    "Do what `fill` does for several models: images[i] gets the photos as preprocesses[i] says, each read once."
    return [
        _fill_one([each[start + offset] for each in images], photo, preprocesses, watch)
        for offset, photo in enumerate(photos)
    ]


def _fill_one(
    targets: Sequence[np.ndarray], photo: Photo, preprocesses: Sequence[dict], watch: Watch
) -> Exception | None:
    try:
        images = prepared_each(photo, preprocesses, watch)
    except (ValueError, OSError) as error:
        for target in targets:
            target[:] = 0
        return error
    with watch("copy"):
        for target, image in zip(targets, images, strict=True):
            target[:] = image
    return None
