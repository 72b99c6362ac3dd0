"""Photos that take seconds to predict, and the files of a folder."""

import os
from pathlib import Path

import numpy as np
from PIL import Image


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def slow_photos(folder: Path, count: int) -> Path:
    "A folder with `count` names of 12 different JPEGs, a few of them broken: seconds of work."
    folder.mkdir()
    for seed in range(12):
        pixels = np.random.default_rng(seed).integers(0, 256, (400, 500, 3), np.uint8)
        Image.fromarray(pixels // (1 + seed % 3)).save(folder / f"{seed}.jpg")
    for number in range(12, count):
        os.link(folder / f"{number % 12}.jpg", folder / f"{number}.jpg")
    for number in (5, 400):
        (folder / f"{number}.jpg").unlink()
        (folder / f"{number}.jpg").write_bytes(b"\xff\xd8 broken")
    return folder
