"""Photos that no network can learn: what they are trained for is that something goes wrong on the way."""

from pathlib import Path

import cv2
import numpy as np


def write_noise(root: Path, valid: int) -> Path:
    "Three classes of noise in the homework's layout, 48 photos to train, `valid` of each class to validate."
    draws = np.random.default_rng(0)
    for split, each in (("train", 16), ("val", valid)):
        for label in range(3):
            (root / split / f"c{label}").mkdir(parents=True)
            for number in range(each):
                pixels = draws.integers(0, 256, (40, 48, 3), np.uint8)
                cv2.imwrite(str(root / split / f"c{label}" / f"{number}.png"), pixels)
    return root
