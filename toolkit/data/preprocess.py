"""How a model takes photos: the dict `preprocess` of recipe.json and model.onnx, and the one function that follows it.

Validation, test and the ONNX input share that function. `toolkit.data.resizing` has the arithmetic.
"""

import hashlib
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from toolkit.data.resizing import padded, resized_crop, squashed
from toolkit.ranges import LARGEST

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

SMALLEST_SIDE = 2.75
"""A reduced photo keeps a shorter side of at least this times `resize`. Sharp photos then differ from torchvision's by
at most 1.07 grey levels: 1.56 at 2 instead of 2.75, 1.15 without reducing."""

INTERPOLATION, VERSION, WHOLE_VERSION = "antialiased bilinear", 1, 2
"""The interpolation, and the version of its exact arithmetic, which docs/resizing.md has in full. A toolkit that only
crops does not know the version of photos that are fitted whole, and refuses it."""

WHOLE = ("pad", "squash")  # how a photo is fitted to the square without a crop: the key `fit`, which a crop lacks

FIRST_TEXT = "0e8f68764ea20811d98b581d6bddfb70f203107d346ad8c95aca4353bbd1cd8a"
"""SHA-256 of the text that files written before 27 November 2026 have under `interpolation`: version 1 in full."""


def resize_center_crop(image_size: int, resize: float = 256 / 224) -> dict[str, int]:
    "The shorter side to `resize` times the crop, then a centre crop of `image_size` pixels: for `preprocessing`."
    return {"resize": round(image_size * resize), "crop": image_size}


def fitted(geometry: dict[str, int], fit: str) -> dict[str, Any]:
    "The geometry of a crop for --fit: as it is, or with the whole photo at the size of the crop."
    return geometry if fit == "crop" else {"fit": fit, "resize": geometry["crop"], "crop": geometry["crop"]}


def preprocessing(
    geometry: dict[str, Any], mean: Sequence[float] = IMAGENET_MEAN, std: Sequence[float] = IMAGENET_STD
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
    version = WHOLE_VERSION if "fit" in preprocess else VERSION
    return preprocess | {"interpolation": INTERPOLATION, "version": version, "steps": steps(preprocess)}


def steps(preprocess: dict) -> str:
    "One line for people who prepare photos with other code: enough to get the same labels, see docs/export.md."
    resize, crop = preprocess["resize"], preprocess["crop"]
    geometry = {
        "squash": f"both sides {crop}, {INTERPOLATION}",
        "pad": f"longer side {crop}, other side rounded half to even, {INTERPOLATION}; on a square of {crop} in the "
        f"colour {padding(preprocess)}, offsets ({crop} - side) / 2 rounded half to even",
        None: f"shorter side {resize}, other side rounded down, {INTERPOLATION}; centre "
        f"crop {crop}, offsets (side - {crop}) / 2 rounded half to even",
    }[preprocess.get("fit")]
    return f"RGB, upright by EXIF, over white; {geometry}; 0 to 255, mean and std are in the graph"


def padding(preprocess: dict) -> tuple[int, ...]:
    "The colour beside a padded photo, RGB: the mean, which is 0 to the network."
    return tuple(min(max(round(255 * value), 0), 255) for value in preprocess["mean"])


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
    fit = preprocess.get("fit")
    if "fit" in preprocess and (fit not in WHOLE or preprocess["resize"] != preprocess["crop"]):
        raise ValueError(f"preprocess has fit {fit!r:.60}, expected {' or '.join(WHOLE)}, with resize as crop")
    text, version = preprocess.get("interpolation"), preprocess.get("version")
    known = version == (WHOLE_VERSION if fit else VERSION) and text == INTERPOLATION
    if not known and (fit or not _is_first(text)):
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
    Only the part of the photo that the square shows is resized.
    Raises ValueError for another kind of array, for one that isn't reduced from `whole`, and as `check` does.
    """
    check(preprocess)
    if photo.dtype != np.uint8 or photo.ndim != 3 or photo.shape[2] != 3 or 0 in photo.shape:
        raise ValueError(f"photo is {photo.dtype} {list(photo.shape)}, expected uint8 [height, width, 3]")
    return square(photo, whole or photo.shape[:2], preprocess, preprocess["crop"])


def discarded(preprocess: dict, squareness: float | None) -> float | None:
    """The share of the photos' area that the centre crop leaves out, on average; 0 if photos are fitted whole.

    squareness: the mean of shorter side / longer side over the photos; None, which is returned, if it is not known.
    """
    if "fit" in preprocess or squareness is None:
        return 0.0 if "fit" in preprocess else None
    return 1 - min(preprocess["crop"] / preprocess["resize"], 1) ** 2 * squareness


def square(photo: np.ndarray, whole: tuple[int, int], preprocess: dict, side: int) -> np.ndarray:
    "The photo in a square of `side` pixels, uint8 [side, side, 3], fitted as the checked `preprocess` says."
    if preprocess.get("fit") == "pad":
        return padded(photo, whole, side, padding(preprocess))
    if preprocess.get("fit") == "squash":
        return squashed(photo, whole, side)
    return resized_crop(photo, whole, preprocess["resize"], side)


def smallest_side(preprocess: dict) -> int:
    "The shorter side in pixels that a photo must keep if `read_reduced` reduces it before `prepare`."
    return math.ceil(SMALLEST_SIDE * preprocess["resize"])


def _three_numbers(values: object, above: float) -> bool:
    return (
        isinstance(values, list)
        and len(values) == 3
        and all(type(value) in (int, float) and math.isfinite(value) and value > above for value in values)
    )
