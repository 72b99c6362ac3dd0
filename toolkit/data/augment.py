"""The training transform, one for one with torchvision's. All use of albumentations is here."""

import os
import random
from typing import Any

os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # else importing it asks the network for a newer version

import albumentations as A  # noqa: E402
import cv2  # noqa: E402
import numpy as np  # noqa: E402
import torch  # noqa: E402
from torch.nn.functional import interpolate  # noqa: E402


class RandomResizedCrop(A.RandomResizedCrop):
    """albumentations' RandomResizedCrop, which draws as torchvision's does, with a resize that antialiases.

    Its own, albumentations 2.0.8, either aliases (the default) or uses INTER_AREA also for the side that grows.
    """

    def apply(self, img: np.ndarray, crop_coords: tuple[int, int, int, int], **params: Any) -> np.ndarray:
        left, top, right, bottom = crop_coords
        return resized(img[top:bottom, left:right], *self.size)


def resized(photo: np.ndarray, height: int, width: int) -> np.ndarray:
    """The photo, uint8 [any, any, 3], at another size: PIL's antialiased BILINEAR, to a rounding.

    Where it shrinks, torch's takes a fraction of the time of `toolkit.data.preprocess.scaled`, which needs no torch.
    """
    pixels = torch.from_numpy(photo).permute(2, 0, 1)[None]
    return interpolate(pixels, (height, width), mode="bilinear", antialias=True)[0].permute(1, 2, 0).numpy()


class Rotate(A.Rotate):
    "albumentations' Rotate, less the arithmetic for boxes and masks, which takes longer than the turning itself."

    def get_params_dependent_on_data(self, params: dict[str, Any], data: dict[str, Any]) -> dict[str, Any]:
        height, width = params["shape"][:2]
        angle = self.py_random.uniform(*self.limit)
        return {"matrix": cv2.getRotationMatrix2D(((width - 1) / 2, (height - 1) / 2), angle, 1)}

    def apply(self, img: np.ndarray, matrix: np.ndarray, **params: Any) -> np.ndarray:
        size = img.shape[1::-1]
        return cv2.warpAffine(
            img, matrix, size, flags=self.interpolation, borderMode=self.border_mode, borderValue=self.fill
        )


def train_transform(
    image_size: int, scale: tuple[float, float] = (0.08, 1), flip: float = 0.5, degrees: float = 15
) -> A.Compose:
    """torchvision's RandomResizedCrop(image_size, scale), RandomHorizontalFlip(flip) and RandomRotation(degrees).

    `train_transform(224)(image=photo)["image"]` makes uint8 [224, 224, 3] of uint8 [height, width, 3]: a crop of 8 to
    100 % of the area and an aspect of 3/4 to 4/3, flipped one time in two, then turned by up to 15 degrees either way
    to nearest pixels, with black corners. Call `reseed` before each photo. Raises ValueError for a value out of range.
    Source: https://pytorch.org/vision/stable/generated/torchvision.transforms.RandomResizedCrop.html
    """
    return A.Compose(
        [
            RandomResizedCrop(size=(image_size, image_size), scale=tuple(scale), ratio=(3 / 4, 4 / 3), p=1),
            A.HorizontalFlip(p=flip),
            Rotate(limit=degrees, interpolation=cv2.INTER_NEAREST, border_mode=cv2.BORDER_CONSTANT, fill=0, p=1),
        ],
        strict=True,
    )


def reseed(compose: A.Compose, seed: int, epoch: int, sample: int) -> None:
    """Make the next call of `compose` draw what (seed, epoch, sample) stand for, whatever was drawn before it.

    One generator serves the whole pipeline. Compose.set_random_seed would start each transform's own at the same
    numbers, and the flip would follow from the crop.
    """
    draws = random.Random(f"{seed} {epoch} {sample}")  # a text is hashed whole, by SHA-512
    compose.set_random_state(np.random.default_rng(draws.getrandbits(64)), draws)
