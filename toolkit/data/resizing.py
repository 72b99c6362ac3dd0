"""Resize a photo and cut or fill a square, fast: docs/resizing.md has this arithmetic in words.

Sizes and offsets are those of torchvision's Resize and CenterCrop, to the pixel. On photos, values are within a grey
level of its antialiased resize of a PIL image, in a fraction of the time.
"""

import math
from collections.abc import Sequence

import cv2
import numpy as np

Pair = tuple[int, int]


def resized_crop(photo: np.ndarray, whole: Pair, resize: int, crop: int) -> np.ndarray:
    """The centre, uint8 [crop, crop, 3], of the photo with a shorter side of `resize`. Only that part is resized.

    photo: uint8 [height, width, 3]. whole: its height and width before it was reduced to 1/1, 1/2, 1/4 or 1/8.
    """
    return center_crop(_resized(photo, whole, resized_shape(*whole, resize), crop), crop)


def padded(photo: np.ndarray, whole: Pair, side: int, colour: Sequence[int]) -> np.ndarray:
    """The whole photo, its longer side `side`, in the centre of a square of a colour: uint8 [side, side, 3].

    photo, whole: as for `resized_crop`. colour: RGB. Sizes and offsets are those of Pillow's ImageOps.pad.
    """
    longer = max(whole)
    resized = tuple(max(round(length / longer * side), 1) for length in whole)
    square = np.full((side, side, 3), colour, np.uint8)
    top, left = (round((side - length) / 2) for length in resized)
    square[top : top + resized[0], left : left + resized[1]] = _resized(photo, whole, resized, side)
    return square


def squashed(photo: np.ndarray, whole: Pair, side: int) -> np.ndarray:
    "The whole photo with both sides `side`, uint8 [side, side, 3]. photo, whole: as for `resized_crop`."
    return np.ascontiguousarray(_resized(photo, whole, (side, side), side))


def _resized(photo: np.ndarray, whole: Pair, resized: Pair, crop: int) -> np.ndarray:
    "The centre of the photo resized to `resized`: `crop` of its rows and columns, or all if there are fewer."
    shown = [(max(_offset(length, crop), 0), min(length, crop)) for length in resized]
    return _resized_part(photo, _lengths(photo, whole), resized, *shown)


def center_crop(photo: np.ndarray, size: int) -> np.ndarray:
    """The centre of the photo, uint8 [size, size, 3]; a smaller photo is padded with black.

    Source: torchvision's center_crop, https://pytorch.org/vision/stable/generated/torchvision.transforms.CenterCrop.html
    """
    lack = [max(size - length, 0) for length in photo.shape[:2]]
    if any(lack):
        photo = np.pad(photo, [*((pixels // 2, (pixels + 1) // 2) for pixels in lack), (0, 0)])
    top, left = (_offset(length, size) for length in photo.shape[:2])
    return np.ascontiguousarray(photo[top : top + size, left : left + size])


def resized_shape(height: int, width: int, size: int) -> tuple[int, int]:
    "Height and width with a shorter side of `size`; the longer side is rounded down, as in torchvision."
    return (size, int(size * width / height)) if height <= width else (int(size * height / width), size)


def _lengths(photo: np.ndarray, whole: tuple[int, int]) -> list[float]:
    "Height and width of `whole` in pixels of the reduced `photo`, whose last row and column may cover less."
    for factor in (1, 2, 4, 8):
        if photo.shape[:2] == tuple(math.ceil(length / factor) for length in whole):
            return [length / factor for length in whole]
    raise ValueError(f"photo is {list(photo.shape[:2])}, expected {list(whole)} at 1/1, 1/2, 1/4 or 1/8")


def _resized_part(photo: np.ndarray, lengths: Sequence[float], resized: Pair, rows: Pair, columns: Pair) -> np.ndarray:
    "About scaled(photo)[top : top + height, left : left + width] of rows (top, height), columns (left, width)."
    (down, skip_rows, vertical), (across, skip_columns, horizontal) = (
        _source(length, new, *part) for length, new, part in zip(lengths, resized, (rows, columns), strict=True)
    )
    part = scaled(photo[vertical, horizontal], down, across)
    return part[skip_rows : skip_rows + rows[1], skip_columns : skip_columns + columns[1]]


def _source(length: float, resized: int, start: int, size: int) -> tuple[float, int, slice]:
    """The pixels along one axis to resize in order to get `size` resized pixels from `start` on.

    Returns the scale, the number of resized pixels before `start`, and the slice. cv2.resize takes no offset, so the
    slice starts at a pixel that a resized pixel starts at too, to within 0.03 pixels.
    """
    scale = length / resized
    near = 0.03 * min(scale, 1)
    before = max(start - 1, 0)  # the blur reaches one pixel around the crop
    first = next(index for index in range(before, -1, -1) if abs(index * scale - round(index * scale)) <= near)
    begin = round(first * scale)
    return scale, start - first, slice(begin, begin + math.ceil((start - first + size + 1) * scale) + 3)


def scaled(photo: np.ndarray, down: float, across: float) -> np.ndarray:
    """The photo, uint8 [height, width, 3], at 1 / down of its height and 1 / across of its width, antialiased.

    PIL's BILINEAR is a triangle filter as wide as the scale; OpenCV's interpolations don't antialias. A blur of three
    taps before them approximates it. Taps and limits were fitted to photos by least squares.
    """
    cubic = all(1.09 < scale <= 1.65 for scale in (down, across))
    taps = [_taps(scale, cubic) for scale in (across, down)]
    largest = max(down, across)
    if largest > 2:  # a triangle is a box convolved with a box: this is the first box, to twice the size
        photo = cv2.resize(photo, None, fx=min(2 / across, 1), fy=min(2 / down, 1), interpolation=cv2.INTER_AREA)
        down, across = min(down, 2), min(across, 2)
    if largest > 1:
        photo = cv2.sepFilter2D(photo, -1, *taps, borderType=cv2.BORDER_REPLICATE)
    interpolation = cv2.INTER_CUBIC if cubic else cv2.INTER_LINEAR
    return cv2.resize(photo, None, fx=1 / across, fy=1 / down, interpolation=interpolation)


def _taps(scale: float, cubic: bool) -> np.ndarray:
    "The blur along an axis, float32 [3], for this scale."
    if scale <= 1:
        side = 0
    elif scale > 2:
        side = 1 / 6
    else:
        side = (scale - 0.6) / 5 if cubic else (scale - 1) / (scale + 2)
    return np.array([side, 1 - 2 * side, side], np.float32)


def _offset(length: int, size: int) -> int:
    "The first pixel of a centred crop; negative if the photo is smaller. Halves are rounded to even."
    return round((length - size) / 2)
