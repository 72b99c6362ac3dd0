"""Seconds, images/s and peak memory of `python -m toolkit.check` on 2,000 and 20,000 JPEG photos of about 500 x 375.

    python tests/bench/check.py [--counts 2000 20000] [--rounds 2]

The files are a few dozen encoded photos (of the shared material, else scikit-learn's two), each made unique by a
comment segment, half upright and half lying; 20 classes, a tenth to validate. Each round is the real command; the best
is told. Peak memory is VmHWM of Linux, looked at while it runs, so it is measured there alone: of the process that
asks, and of the largest that reads.
"""

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import cv2
import numpy as np
from sklearn.datasets import load_sample_images

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))
from toolkit.data.on_disk.photo_files import find_photos  # noqa: E402
from toolkit.data.photo import read_photo  # noqa: E402

SHARED = ROOT.parent / "shared" / "data" / "grocery20" / "train"
CLASSES = 20


def main(counts: list[int], rounds: int) -> None:
    encoded = jpegs()
    print(f"{len(encoded)} JPEGs of {np.mean([len(each) for each in encoded]) / 1e3:.0f} kB; {os.cpu_count()} cores")
    for count in counts:
        with tempfile.TemporaryDirectory() as folder:
            write(Path(folder), encoded, count)
            seconds, own, reader = min(timed(folder, count) for _ in range(rounds))
        rate = f"{seconds:.1f} s, {count / seconds:.0f} images/s"
        print(f"{count} photos: {rate}, peak {own:.0f} MB, and {reader:.0f} MB in each process that reads", flush=True)


def jpegs() -> list[bytes]:
    photos = (
        [read_photo(path) for path in find_photos(SHARED)[::25]] if SHARED.exists() else load_sample_images().images
    )
    sizes = [(500, 375), (375, 500)]
    resized = [cv2.resize(each, sizes[n % 2], interpolation=cv2.INTER_AREA) for n, each in enumerate(photos)]
    return [cv2.imencode(".jpg", each[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 90])[1].tobytes() for each in resized]


def write(folder: Path, encoded: list[bytes], count: int) -> None:
    for index in range(count):
        path = folder / ("val" if index // CLASSES % 10 == 0 else "train") / str(index % CLASSES) / f"{index}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        comment = b"\xff\xfe\x00\x0a%08d" % index
        photo = encoded[index % len(encoded)]
        path.write_bytes(photo[:2] + comment + photo[2:])


def timed(folder: str, count: int) -> tuple[float, float, float]:
    "Seconds, and megabytes at the peak of the command's own process and of the largest that it started."
    begun, own, reader = time.perf_counter(), 0.0, 0.0
    command = [sys.executable, "-m", "toolkit.check", folder, "--json"]
    with tempfile.TemporaryFile() as out, subprocess.Popen(command, cwd=ROOT, stdout=out) as checking:
        while checking.poll() is None:
            own = max(own, peak(checking.pid))
            reader = max([reader, *map(peak, children(checking.pid))])
            time.sleep(0.05)
        seconds = time.perf_counter() - begun
        out.seek(0)
        report = json.load(out)
    assert (checking.returncode, report["findings"]) == (0, []), report["findings"][:3]
    assert report["photos"]["train"] + report["photos"]["valid"] == count
    return seconds, own, reader


def children(process: int) -> list[int]:
    return [int(child) for task in Path(f"/proc/{process}/task").glob("*/children") for child in text(task).split()]


def peak(process: int) -> float:
    found = re.search(r"VmHWM:\s*(\d+) kB", text(Path(f"/proc/{process}/status")))
    return int(found[1]) * 1024 / 1e6 if found else 0.0


def text(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:  # it ended meanwhile
        return ""


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--counts", type=int, nargs="+", default=[2000, 20_000])
    parser.add_argument("--rounds", type=int, default=2)
    arguments = parser.parse_args()
    main(arguments.counts, arguments.rounds)
