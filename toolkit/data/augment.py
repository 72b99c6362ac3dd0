"""The training transforms: albumentations, and two of ours that draw and interpolate as torchvision's do.

A recipe lists transforms, these two and any of albumentations', and `toolkit.data.augmentation` builds them.
"""

import os
import random
from collections.abc import Sequence
from typing import Any

os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # else importing it asks the network for a newer version

import albumentations as A  # noqa: E402
import cv2  # noqa: E402
import numpy as np  # noqa: E402
import torch  # noqa: E402
from albumentations import HorizontalFlip as HorizontalFlip  # noqa: E402
from torch.nn.functional import interpolate  # noqa: E402


class RandomResizedCrop(A.RandomResizedCrop):
    """albumentations' RandomResizedCrop with torchvision's draws and an antialiasing resize.

    The resize of albumentations 2.0.8 either aliases (the default) or uses INTER_AREA even for a side that grows.
    size: height and width of the result; None is the size that the network is trained on. scale: share of the photo's
    area. ratio: width over height.
    Source: https://pytorch.org/vision/stable/generated/torchvision.transforms.RandomResizedCrop.html
    """

    class InitSchema(A.BasicTransform.InitSchema):
        size: tuple[int, int] | None
        scale: tuple[float, float]
        ratio: tuple[float, float]

    def __init__(
        self,
        size: tuple[int, int] | None = None,
        scale: tuple[float, float] = (0.08, 1.0),
        ratio: tuple[float, float] = (3 / 4, 4 / 3),
        p: float = 1.0,
    ):
        if not (0 < scale[0] <= scale[1] <= 1 and 0 < ratio[0] <= ratio[1]):
            raise ValueError(
                f"RandomResizedCrop with scale {scale} and ratio {ratio}: give 0 < low <= high, scale <= 1"
            )
        super().__init__(size=size or (1, 1), scale=scale, ratio=ratio, p=p)
        self.size = size

    @classmethod
    def get_class_fullname(cls) -> str:
        return "toolkit.RandomResizedCrop"  # its name in recipe.json

    def get_transform_init_args_names(self) -> tuple[str, ...]:
        return "size", "scale", "ratio"

    def apply(self, img: np.ndarray, crop_coords: tuple[int, int, int, int], **params: Any) -> np.ndarray:
        left, top, right, bottom = crop_coords
        return resized(img[top:bottom, left:right], *self.size)


class Rotate(A.Rotate):
    """Rotate by up to `degrees` either way, with nearest pixels and black corners, as torchvision's RandomRotation.

    It leaves out the arithmetic for boxes and masks of albumentations' Rotate, which takes longer than the rotation.
    Source: https://pytorch.org/vision/stable/generated/torchvision.transforms.RandomRotation.html
    """

    class InitSchema(A.BasicTransform.InitSchema):
        degrees: float

    def __init__(self, degrees: float = 15.0, p: float = 1.0):
        if not 0 <= degrees <= 180:
            raise ValueError(f"Rotate({degrees}): give 0 to 180 degrees")
        super().__init__(limit=degrees, interpolation=cv2.INTER_NEAREST, border_mode=cv2.BORDER_CONSTANT, fill=0, p=p)
        self.degrees = degrees

    @classmethod
    def get_class_fullname(cls) -> str:
        return "toolkit.Rotate"

    def get_transform_init_args_names(self) -> tuple[str, ...]:
        return ("degrees",)

    def get_params_dependent_on_data(self, params: dict[str, Any], data: dict[str, Any]) -> dict[str, Any]:
        height, width = params["shape"][:2]
        angle = self.py_random.uniform(*self.limit)
        return {"matrix": cv2.getRotationMatrix2D(((width - 1) / 2, (height - 1) / 2), angle, 1)}

    def apply(self, img: np.ndarray, matrix: np.ndarray, **params: Any) -> np.ndarray:
        size = img.shape[1::-1]
        return cv2.warpAffine(
            img, matrix, size, flags=self.interpolation, borderMode=self.border_mode, borderValue=self.fill
        )


def resized(photo: np.ndarray, height: int, width: int) -> np.ndarray:
    """Return the photo, uint8 [any, any, 3], resized as by PIL's antialiased BILINEAR, except for rounding.

    To shrink a photo, torch's resize takes a fraction of the time of `data.resizing.scaled`, which needs no torch.
    """
    pixels = torch.from_numpy(photo).permute(2, 0, 1)[None]
    return interpolate(pixels, (height, width), mode="bilinear", antialias=True)[0].permute(1, 2, 0).numpy()


def homework(scale: Sequence[float] = (0.08, 1.0), flip: float = 0.5, degrees: float = 15.0) -> list[A.BasicTransform]:
    """Return hw1's transforms: torchvision's RandomResizedCrop, RandomHorizontalFlip and RandomRotation.

    By default the crop has 8 to 100 % of the area and an aspect of 3/4 to 4/3, half of the crops are flipped, and each
    is rotated by up to 15 degrees either way.
    """
    return [RandomResizedCrop(scale=tuple(scale)), HorizontalFlip(p=flip), Rotate(degrees=degrees)]


def reseed(compose: A.Compose, seed: int, epoch: int, sample: int) -> None:
    """Seed the next call of `compose` by (seed, epoch, sample), whatever was drawn before it.

    One generator serves the whole pipeline. Compose.set_random_seed would start each transform's own at the same
    numbers, and the flip would follow from the crop.
    """
    draws = random.Random(f"{seed} {epoch} {sample}")  # a text is hashed whole, by SHA-512
    compose.set_random_state(np.random.default_rng(draws.getrandbits(64)), draws)
