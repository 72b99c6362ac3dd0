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


def prepared(photo: Photo, preprocess: dict, watch: Watch = unwatched) -> np.ndarray:
    """Return a photo as the model takes it, uint8 [crop, crop, 3] RGB.

    Raises FileNotFoundError or ValueError, naming the file, if it can't be read; ValueError for other arrays.
    """
    whole = None
    if isinstance(photo, np.ndarray):
        if photo.dtype != np.uint8 or photo.ndim != 3 or photo.shape[2] != 3 or photo.size == 0:
            raise ValueError(f"array {photo.dtype} {photo.shape}: expected uint8 [height, width, 3] RGB")
    else:
        name = "<bytes>" if isinstance(photo, bytes) else str(photo)
        with watch("read"):
            data = photo if isinstance(photo, bytes) else file_bytes(Path(photo))
        with watch("decode"):
            photo, whole = read_reduced(data, smallest_side(preprocess), name)
    with watch("crop"):
        return prepare(photo, preprocess, whole)


def fill(
    images: np.ndarray, start: int, photos: Sequence[Photo], preprocess: dict, watch: Watch = unwatched
) -> list[Exception | None]:
    """Write the prepared photos into `images` from index `start` on; return for each its error, or None.

    images: uint8 [batch, crop, crop, 3] RGB. A photo that can't be read becomes black.
    """
    return [_fill_one(images[start + offset], photo, preprocess, watch) for offset, photo in enumerate(photos)]


def _fill_one(target: np.ndarray, photo: Photo, preprocess: dict, watch: Watch) -> Exception | None:
    try:
        image = prepared(photo, preprocess, watch)
    except (ValueError, OSError) as error:
        target[:] = 0
        return error
    with watch("copy"):
        target[:] = image
    return None
