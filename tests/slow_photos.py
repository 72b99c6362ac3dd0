"""Photos that take seconds to predict, the files of a folder, and how far a prediction has come."""

import contextlib
import os
import subprocess
import time
from pathlib import Path

import numpy as np
from PIL import Image

from export.predictions import journal


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


def rows_in(partial: Path) -> int:
    "The number of finished rows of a prediction that goes on."
    if partial.exists():
        with contextlib.suppress(OSError, ValueError):  # it may be renamed, or begun, at this moment
            return sum(1 for _ in journal.rows(partial))
    return 0


def wait_for_rows(partial: Path, process: subprocess.Popen, seconds: float = 60) -> None:
    "Wait until a process has written finished rows there. Machines differ in how long that takes."
    deadline = time.monotonic() + seconds
    while not rows_in(partial):
        assert process.poll() is None, "it ended before it could be interrupted"
        assert time.monotonic() < deadline, f"no row in {partial} after {seconds} s"
        time.sleep(0.02)
