"""Resize the shorter side and crop the centre: the geometry that validation, test and the ONNX input share.

Sizes and offsets are those of torchvision's Resize and CenterCrop, to the pixel. On photos, values are within a grey
level of its antialiased resize of a PIL image, in a fraction of the time. docs/resizing.md has the exact arithmetic.
"""

import hashlib
import math
from collections.abc import Sequence

import cv2
import numpy as np

from toolkit.ranges import LARGEST

Pair = tuple[int, int]

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

SMALLEST_SIDE = 2.75
"""A reduced photo keeps a shorter side of at least this times `resize`. Sharp photos then differ from torchvision's by
at most 1.07 grey levels: 1.56 at 2 instead of 2.75, 1.15 without reducing."""

INTERPOLATION, VERSION = "antialiased bilinear", 1
"""The interpolation, and the version of its exact arithmetic, which docs/resizing.md has in full."""

FIRST_TEXT = "0e8f68764ea20811d98b581d6bddfb70f203107d346ad8c95aca4353bbd1cd8a"
"""SHA-256 of the text that files written before 27 November 2026 have under `interpolation`: version 1 in full."""


def for_size(image_size: int, mean: tuple[float, ...] = IMAGENET_MEAN, std: tuple[float, ...] = IMAGENET_STD) -> dict:
    """The preprocess dict of a model for `image_size` pixels: shorter side 256/224 of it, then a centre crop.

    mean, std: what the model subtracts and divides by, RGB, of pixels between 0 and 1.
    Raises ValueError as `check` does.
    """
    preprocess = {
        "resize": round(image_size * 256 / 224),
        "crop": image_size,
        "exif": "transpose",
        "alpha": "white",
        "mean": list(mean),
        "std": list(std),
    }
    check(preprocess := upgraded(preprocess))
    return preprocess


def upgraded(preprocess: dict) -> dict:
    "A preprocess dict of this version or of an earlier one, which `check` accepts, as this version writes it."
    return preprocess | {"interpolation": INTERPOLATION, "version": VERSION, "steps": steps(preprocess)}


def steps(preprocess: dict) -> str:
    "One line for people who prepare photos with other code: enough to get the same labels, see docs/export.md."
    resize, crop = preprocess["resize"], preprocess["crop"]
    return (
        f"RGB, upright by EXIF, over white; shorter side {resize}, other side rounded down, {INTERPOLATION}; centre "
        f"crop {crop}, offsets (side - {crop}) / 2 rounded half to even; 0 to 255, mean and std are in the graph"
    )


def check(preprocess: dict) -> None:
    "Raises ValueError, saying what is wrong, for a preprocess dict that `prepare` can't follow to the letter."
    if not isinstance(preprocess, dict):
        raise ValueError(f"preprocess is {type(preprocess).__name__}, expected a dictionary")
    for key in ("resize", "crop"):
        if type(preprocess.get(key)) is not int or not 1 <= preprocess[key] <= LARGEST:
            raise ValueError(f"preprocess has {key} {preprocess.get(key)!r:.60}, expected 1 to {LARGEST} pixels")
    for key, known in (("exif", "transpose"), ("alpha", "white")):
        if preprocess.get(key) != known:
            raise ValueError(f"preprocess has {key} {preprocess.get(key)!r:.60}, expected {known!r}")
    text, version = preprocess.get("interpolation"), preprocess.get("version")
    if (text, version) != (INTERPOLATION, VERSION) and not _is_first(text):
        raise ValueError(
            f"preprocess has interpolation {text!r:.60} (version {version!r:.20}), which this toolkit doesn't know; "
            "use the one it was made with, or make it again with this one"
        )
    for key in ("mean", "std"):
        if not _three_numbers(preprocess.get(key), above=0 if key == "std" else -math.inf):
            raise ValueError(
                f"preprocess has {key} {preprocess.get(key)!r:.60}, expected a list of three numbers, std above 0"
            )


def _is_first(text: object) -> bool:
    "Whether `interpolation` is the text of files written before 27 November 2026."
    return isinstance(text, str) and hashlib.sha256(text.encode(errors="replace")).hexdigest() == FIRST_TEXT


def prepare(photo: np.ndarray, preprocess: dict, whole: tuple[int, int] | None = None) -> np.ndarray:
    """The photo as the model takes it, uint8 [crop, crop, 3] RGB: the same for validation, test and the ONNX input.

    photo: uint8 [height, width, 3], RGB.
    whole: its height and width before `toolkit.data.photo.read_reduced` reduced it; None if it was not reduced.
    Only the part of the photo that the crop shows is resized.
    Raises ValueError for another kind of array, for one that isn't reduced from `whole`, and as `check` does.
    """
    check(preprocess)
    if photo.dtype != np.uint8 or photo.ndim != 3 or photo.shape[2] != 3 or 0 in photo.shape:
        raise ValueError(f"photo is {photo.dtype} {list(photo.shape)}, expected uint8 [height, width, 3]")
    whole = whole or photo.shape[:2]
    crop, resized = preprocess["crop"], resized_shape(*whole, preprocess["resize"])
    shown = [(max(_offset(length, crop), 0), min(length, crop)) for length in resized]
    return center_crop(_resized_part(photo, _lengths(photo, whole), resized, *shown), crop)


def smallest_side(preprocess: dict) -> int:
    "The shorter side in pixels that a photo must keep if `read_reduced` reduces it before `prepare`."
    return math.ceil(SMALLEST_SIDE * preprocess["resize"])


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


def _three_numbers(values: object, above: float) -> bool:
    return (
        isinstance(values, list)
        and len(values) == 3
        and all(type(value) in (int, float) and math.isfinite(value) and value > above for value in values)
    )
