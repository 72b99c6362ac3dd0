"""A list of training transforms that can be built at any size, recorded in recipe.json and rebuilt from it."""

import inspect
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from toolkit.data.augment import A, RandomResizedCrop, homework, reseed  # albumentations as it imports it

RECORDABLE = ("albumentations.", "toolkit.data.augment")  # modules whose classes may stand in recipe.json
NO_PIXELS = {"transforms", "seed", "strict", "mask_interpolation", "save_applied_params"}
"Arguments of albumentations' containers that albumentations does not record and that do not change photos."


@dataclass(frozen=True)
class Augmentation:
    """Training transforms that can be built at any size.

    recorded: albumentations' own `to_dict` of them, which is JSON: names of classes and their arguments, no code.
    """

    recorded: dict[str, Any]

    @classmethod
    def of(cls, transforms: Sequence[A.BasicTransform] | A.BaseCompose) -> "Augmentation":
        """Return the augmentation of a list of transforms or of an `A.Compose`.

        Raises ValueError for a transform that recipe.json can't record: a class of the user's own, or `A.Lambda`.
        """
        whole = transforms if isinstance(transforms, A.BaseCompose) else A.Compose(list(transforms))
        return cls.from_recipe(_as_json(_record(whole)))

    @classmethod
    def from_recipe(cls, recorded: dict[str, Any]) -> "Augmentation":
        """Return the augmentation that recipe.json holds. Older files hold scale, flip and degrees of hw1's transforms.

        Raises ValueError for a record that can't be rebuilt.
        """
        if "__class_fullname__" not in recorded:
            return cls.of(homework(**recorded))
        augmentation = cls(recorded)
        augmentation.at(32)
        return augmentation

    def at(self, size: int) -> A.Compose:
        """Return the transforms for a network of `size` pixels: uint8 [height, width, 3] RGB -> uint8 [size, size, 3].

        `augmentation.at(224)(image=photo)["image"]` transforms a photo. Call `reseed` before each.
        Raises ValueError for a record that can't be rebuilt.
        """
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                warnings.filterwarnings("error", message=".*not valid")  # of arguments that would be ignored
                return A.from_dict({"transform": _sized(self.recorded, size)})
        except Exception as error:  # a foreign recipe.json may hold anything
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise ValueError(f"the training transforms can't be rebuilt from their record: {reason:.200}") from error


def _record(transform: A.BasicTransform | A.BaseCompose) -> dict[str, Any]:
    """albumentations' `to_dict` of a transform, without arguments that only its parent classes take.

    Raises ValueError if the record would not make the same transform.
    """
    kind, whole = type(transform), isinstance(transform, A.BaseCompose)
    parts = [_record(part) for part in transform.transforms] if whole else []
    refusal = ValueError(
        f"the training transform {kind.__name__} can't be recorded in recipe.json, by which a run is rebuilt: use "
        "albumentations' own transforms, but not A.Lambda, or those of toolkit.data.augment"
    )
    if not kind.__module__.startswith(RECORDABLE) or isinstance(transform, A.Lambda):
        raise refusal
    try:
        recorded = A.to_dict(transform)["transform"]
    except NotImplementedError as error:  # albumentations can't record a transform that needs other photos
        raise refusal from error
    taken = inspect.signature(kind).parameters
    for name in taken.keys() - recorded.keys() - NO_PIXELS:
        if (value := getattr(transform, name, taken[name].default)) != taken[name].default:
            raise ValueError(
                f"the training transform {kind.__name__} can't be recorded with {name}={value}, which albumentations "
                "leaves out of its record: use its default, or another transform"
            )
    kept = {name: value for name, value in recorded.items() if name in taken or name == "__class_fullname__"}
    return kept | ({"transforms": parts} if whole else {})


def _as_json(value: Any) -> Any:
    "Return the value as JSON has it: tuples as lists."
    if isinstance(value, dict):
        return {name: _as_json(part) for name, part in value.items()}
    return [_as_json(part) for part in value] if isinstance(value, list | tuple) else value


def _sized(recorded: dict[str, Any], size: int) -> dict[str, Any]:
    "Return the record with `size` filled in for each RandomResizedCrop without a size."
    filled = dict(recorded)
    if "transforms" in recorded:
        filled["transforms"] = [_sized(part, size) for part in recorded["transforms"]]
    if recorded["__class_fullname__"] == RandomResizedCrop.get_class_fullname() and recorded.get("size") is None:
        filled["size"] = (size, size)
    return filled


def difference(old: dict[str, Any], new: dict[str, Any]) -> tuple[str, str]:
    "Both records as text: the names of their transforms or, if they are the same, the first that differs in full."
    if old["__class_fullname__"] != new["__class_fullname__"]:
        return _named(old), _named(new)
    parts = [one.get("transforms", []) for one in (old, new)]
    names = [[part["__class_fullname__"] for part in each] for each in parts]
    if names[0] != names[1]:
        return _named(old), _named(new)
    for one, other in zip(*parts, strict=True):
        if one != other:
            return difference(one, other)
    changed = [name for name in old if old[name] != new.get(name)]
    name = old["__class_fullname__"].removeprefix("toolkit.")
    return tuple(f"{name}({', '.join(f'{each}={one.get(each)}' for each in changed)})" for one in (old, new))


def _named(recorded: dict[str, Any]) -> str:
    "OneOf[GaussianBlur, MotionBlur]"
    parts = ", ".join(_named(part) for part in recorded.get("transforms", []))
    name = recorded["__class_fullname__"].removeprefix("toolkit.")
    return name + (f"[{parts}]" if parts else "")


def train_transform(image_size: int, **options: Any) -> A.Compose:
    "Return the transforms of `homework`, with its options, at one size."
    return Augmentation.of(homework(**options)).at(image_size)


def check_output(compose: A.Compose, size: int) -> None:
    "Raises ValueError if `compose` does not make uint8 [size, size, 3] of photos, tried on eight of noise."
    draws = np.random.default_rng(0)
    for sample in range(8):
        height, width = (size // 2 + 1, size // 2 + 1) if sample % 2 else (size + 40, 2 * size + 11)
        reseed(compose, 0, 0, sample)
        try:
            made = compose(image=draws.integers(0, 256, (height, width, 3), np.uint8))["image"]
        except Exception as error:  # a transform may raise anything
            raise ValueError(f"the training transforms fail on a photo of {width}x{height} pixels: {error}") from error
        if not isinstance(made, np.ndarray) or made.dtype != np.uint8 or made.shape != (size, size, 3):
            raise ValueError(
                f"the training transforms make {made.dtype} {list(made.shape)} of a photo, expected uint8 "
                f"[{size}, {size}, 3]: leave out A.Normalize and ToTensorV2, and crop or resize, as by "
                "toolkit.data.augment.RandomResizedCrop()"
            )
