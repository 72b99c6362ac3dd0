"""Resize the shorter side, crop the centre: the geometry that validation, test and the ONNX input share.

Sizes and offsets are those of torchvision's Resize and CenterCrop, to the pixel. Values are those of its antialiased
resize of a PIL image, on photos to within a grey level, in a fraction of the time.
"""

import math
from collections.abc import Sequence

import cv2
import numpy as np

from toolkit.ranges import LARGEST

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

SMALLEST_SIDE = 2.75
"""The times `resize` that a reduced photo keeps. The worst of sharp ones came within 1.56 grey levels of torchvision's
at 2, and within 1.07 from here on, where they came within 1.15 when decoded whole."""

INTERPOLATION = (
    "OpenCV. A JPEG of 8 bits, grey or of 3 components, is decoded at 1 / k by IMREAD_REDUCED: k is the largest of "
    f"8, 4, 2 for which its shorter side is k * ceil({SMALLEST_SIDE} * resize) or more and that divides what sides "
    "EXIF mirrors, else 1, as for any other photo. s of an axis = its length / k / its resized length. "
    "An axis with s > 2 first goes to 2 / s of its length by INTER_AREA, and has s = 2 and a = 1/6 from there on. "
    "Others have a = 0 up to s = 1, else (s - 0.6) / 5 with INTER_CUBIC, (s - 1) / (s + 2) with INTER_LINEAR. "
    "sepFilter2D by [a, 1 - 2a, a], BORDER_REPLICATE, unless all a = 0; then resize by 1 / s, "
    "INTER_CUBIC where both axes had 1.09 < s <= 1.65, else INTER_LINEAR. "
    "What is resized starts at the last row (column) i before the crop's first (at 0 if that is it) with i * s within "
    "0.03 * min(s, 1) of an integer, which is where it starts in the decoded photo, "
    "and has ceil(s * those up to one past the crop's end) + 3 of the decoded photo's rows, as far as there are"
)
"""How `prepare` resizes, exactly: enough to write it again from a model's metadata."""


def resize_center_crop(image_size: int, resize: float = 256 / 224) -> dict[str, int]:
    "The shorter side to `resize` times the crop, then a centre crop of `image_size` pixels: for `preprocessing`."
    return {"resize": round(image_size * resize), "crop": image_size}


def preprocessing(
    geometry: dict[str, int], mean: Sequence[float] = IMAGENET_MEAN, std: Sequence[float] = IMAGENET_STD
) -> dict:
    """The preprocess dict of a model: the geometry of `resize_center_crop`, mean and standard deviation.

    mean, std: RGB, of pixels between 0 and 1; the model subtracts and divides by them.
    Raises ValueError as `check` does.
    """
    preprocess = {
        **geometry,
        "interpolation": INTERPOLATION,
        "exif": "transpose",
        "alpha": "white",
        "mean": list(mean),
        "std": list(std),
    }
    check(preprocess)
    return preprocess


def for_size(image_size: int, mean: tuple[float, ...] = IMAGENET_MEAN, std: tuple[float, ...] = IMAGENET_STD) -> dict:
    """The preprocess dict of a model fed with `image_size` pixels: shorter side 256/224 of it, then its centre.

    mean, std: what the model subtracts and divides by, RGB, of pixels between 0 and 1.
    Raises ValueError as `check` does.
    """
    return preprocessing(resize_center_crop(image_size), mean, std)


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
    if preprocess.get("interpolation") != INTERPOLATION:
        raise ValueError(
            f"preprocess has interpolation {preprocess.get('interpolation')!r:.60}, which this version doesn't know; "
            "use the toolkit it was made with, or make it again with this one"
        )
    for key in ("mean", "std"):
        if not _three_numbers(preprocess.get(key), above=0 if key == "std" else -math.inf):
            raise ValueError(
                f"preprocess has {key} {preprocess.get(key)!r:.60}, expected a list of three numbers, std above 0"
            )


def prepare(photo: np.ndarray, preprocess: dict, whole: tuple[int, int] | None = None) -> np.ndarray:
    """The photo as the model takes it: what validation, test and the ONNX input are made by.

    photo: uint8 [height, width, 3], RGB. Returns uint8 [crop, crop, 3], RGB.
    whole: its height and width before `toolkit.data.photo.read_reduced` reduced it; None where it is whole.
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
    "The shorter side, in pixels, that a photo has to keep when it is reduced before `prepare`; for `read_reduced`."
    return math.ceil(SMALLEST_SIDE * preprocess["resize"])


def resize_shorter(photo: np.ndarray, size: int) -> np.ndarray:
    "The photo, uint8 [height, width, 3], with a shorter side of `size` pixels."
    height, width = resized_shape(*photo.shape[:2], size)
    return resize(photo, height, width)


def center_crop(photo: np.ndarray, size: int) -> np.ndarray:
    """The middle of the photo, uint8 [size, size, 3]; what a smaller photo lacks is black.

    Source: torchvision's center_crop, https://pytorch.org/vision/stable/generated/torchvision.transforms.CenterCrop.html
    """
    lack = [max(size - length, 0) for length in photo.shape[:2]]
    if any(lack):
        photo = np.pad(photo, [*((pixels // 2, (pixels + 1) // 2) for pixels in lack), (0, 0)])
    top, left = (_offset(length, size) for length in photo.shape[:2])
    return np.ascontiguousarray(photo[top : top + size, left : left + size])


def resized_shape(height: int, width: int, size: int) -> tuple[int, int]:
    "Height and width once the shorter side is `size`; the longer one is rounded down, as torchvision does."
    return (size, int(size * width / height)) if height <= width else (int(size * height / width), size)


def resize(photo: np.ndarray, height: int, width: int) -> np.ndarray:
    "The photo, uint8 [any, any, 3], at another size: antialiased where it shrinks, as PIL's BILINEAR is."
    return _scaled(photo, photo.shape[0] / height, photo.shape[1] / width)


def _lengths(photo: np.ndarray, whole: tuple[int, int]) -> list[float]:
    "Height and width of `whole` in pixels of `photo`, whose last ones may stand for less than the others."
    for factor in (1, 2, 4, 8):
        if photo.shape[:2] == tuple(math.ceil(length / factor) for length in whole):
            return [length / factor for length in whole]
    raise ValueError(f"photo is {list(photo.shape[:2])}, expected {list(whole)} at 1/1, 1/2, 1/4 or 1/8")


def _resized_part(
    photo: np.ndarray,
    lengths: Sequence[float],
    resized: tuple[int, int],
    rows: tuple[int, int],
    columns: tuple[int, int],
) -> np.ndarray:
    "resize(photo, *resized)[top : top + height, left : left + width], near enough; rows: (top, height), columns alike."
    (down, skip_rows, vertical), (across, skip_columns, horizontal) = (
        _source(length, new, *part) for length, new, part in zip(lengths, resized, (rows, columns), strict=True)
    )
    part = _scaled(photo[vertical, horizontal], down, across)
    return part[skip_rows : skip_rows + rows[1], skip_columns : skip_columns + columns[1]]


def _source(length: float, resized: int, start: int, size: int) -> tuple[float, int, slice]:
    """Which pixels along one axis to resize, to have `size` of the resized ones from `start` on.

    Returns the scale, how many resized pixels come before `start`, and the slice. cv2.resize takes no offset, so the
    slice starts where a resized pixel begins at a whole pixel, near enough.
    """
    scale = length / resized
    near = 0.03 * min(scale, 1)
    before = max(start - 1, 0)  # what lies around the crop is blurred into it
    first = next(index for index in range(before, -1, -1) if abs(index * scale - round(index * scale)) <= near)
    begin = round(first * scale)
    return scale, start - first, slice(begin, begin + math.ceil((start - first + size + 1) * scale) + 3)


def _scaled(photo: np.ndarray, down: float, across: float) -> np.ndarray:
    """The photo at 1 / down of its height and 1 / across of its width.

    PIL's BILINEAR is a triangle filter as wide as the scale; OpenCV's interpolations don't antialias. A blur of three
    taps before them comes near it. Taps and limits are least squares on photos.
    """
    cubic = all(1.09 < scale <= 1.65 for scale in (down, across))
    taps = [_taps(scale, cubic) for scale in (across, down)]
    largest = max(down, across)
    if largest > 2:  # a triangle is a box upon a box: the first one, to twice the size
        photo = cv2.resize(photo, None, fx=min(2 / across, 1), fy=min(2 / down, 1), interpolation=cv2.INTER_AREA)
        down, across = min(down, 2), min(across, 2)
    if largest > 1:
        photo = cv2.sepFilter2D(photo, -1, *taps, borderType=cv2.BORDER_REPLICATE)
    interpolation = cv2.INTER_CUBIC if cubic else cv2.INTER_LINEAR
    return cv2.resize(photo, None, fx=1 / across, fy=1 / down, interpolation=interpolation)


def _taps(scale: float, cubic: bool) -> np.ndarray:
    if scale <= 1:
        side = 0
    elif scale > 2:
        side = 1 / 6
    else:
        side = (scale - 0.6) / 5 if cubic else (scale - 1) / (scale + 2)
    return np.array([side, 1 - 2 * side, side], np.float32)


def _offset(length: int, size: int) -> int:
    return round((length - size) / 2)


def _three_numbers(values: object, above: float) -> bool:
    return (
        isinstance(values, list)
        and len(values) == 3
        and all(type(value) in (int, float) and math.isfinite(value) and value > above for value in values)
    )
