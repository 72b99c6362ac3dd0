"""The training transform: albumentations pipelines, one for one with torchvision's. All use of albumentations is here."""

import os
import random

os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # else it asks the network for a newer version at import

import albumentations as A  # noqa: E402
import cv2  # noqa: E402
import numpy as np  # noqa: E402


def train_transform(
    image_size: int, scale: tuple[float, float] = (0.08, 1.0), flip: float = 0.5, degrees: float = 15
) -> A.Compose:
    """RandomResizedCrop(image_size, scale), RandomHorizontalFlip(flip), RandomRotation(degrees): uint8 RGB of any size ->
    uint8 [image_size, image_size, 3].
    """
    return A.Compose(
        [
            A.RandomResizedCrop(size=(image_size, image_size), scale=tuple(scale), area_for_downscale="image"),
            A.HorizontalFlip(p=flip),
            A.Rotate(
                limit=(-degrees, degrees),
                interpolation=cv2.INTER_NEAREST,
                border_mode=cv2.BORDER_CONSTANT,
                fill=0,
                p=1.0,
            ),
        ],
        strict=True,
    )


def reseed(compose: A.Compose, seed: int, epoch: int, sample: int) -> None:
    """Make the next call of `compose` draw what (seed, epoch, sample) stand for, whatever was drawn before.

    One generator for the whole pipeline: Compose.set_random_seed would start every transform from the same numbers, and
    the flip would follow from the crop.
    """
    draws = random.Random(f"{seed} {epoch} {sample}")
    compose.set_random_state(np.random.default_rng(draws.getrandbits(64)), draws)
