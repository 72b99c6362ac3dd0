"""How a model takes photos: the dict `preprocess` of recipe.json and model.onnx, and the one function that follows it.

Validation, test and the ONNX input share that function. `toolkit.data.resizing` has the arithmetic.
"""

import hashlib
import math
from collections.abc import Sequence

import numpy as np

from toolkit.data.resizing import resized_crop
from toolkit.ranges import LARGEST

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

SMALLEST_SIDE = 2.75
"""A reduced photo keeps a shorter side of at least this times `resize`. Sharp photos then differ from torchvision's by
at most 1.07 grey levels: 1.56 at 2 instead of 2.75, 1.15 without reducing."""

INTERPOLATION, VERSION = "antialiased bilinear", 1
"""The interpolation, and the version of its exact arithmetic, which docs/resizing.md has in full."""

FIRST_TEXT = "0e8f68764ea20811d98b581d6bddfb70f203107d346ad8c95aca4353bbd1cd8a"
"""SHA-256 of the text that files written before 27 November 2026 have under `interpolation`: version 1 in full."""


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
        "exif": "transpose",
        "alpha": "white",
        "mean": list(mean),
        "std": list(std),
    }
    check(preprocess := upgraded(preprocess))
    return preprocess


def for_size(image_size: int, mean: tuple[float, ...] = IMAGENET_MEAN, std: tuple[float, ...] = IMAGENET_STD) -> dict:
    """The preprocess dict of a model for `image_size` pixels: shorter side 256/224 of it, then a centre crop.

    mean, std: what the model subtracts and divides by, RGB, of pixels between 0 and 1.
    Raises ValueError as `check` does.
    """
    return preprocessing(resize_center_crop(image_size), mean, std)


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
    "True if `interpolation` is the text of files written before 27 November 2026."
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
    return resized_crop(photo, whole or photo.shape[:2], preprocess["resize"], preprocess["crop"])


def smallest_side(preprocess: dict) -> int:
    "The shorter side in pixels that a photo must keep if `read_reduced` reduces it before `prepare`."
    return math.ceil(SMALLEST_SIDE * preprocess["resize"])


def _three_numbers(values: object, above: float) -> bool:
    return (
        isinstance(values, list)
        and len(values) == 3
        and all(type(value) in (int, float) and math.isfinite(value) and value > above for value in values)
    )
