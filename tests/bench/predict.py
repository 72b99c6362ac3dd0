"""Peak memory and images/s of `python -m export.predict` on 5,000 and on 100,000 small JPEGs.

    python tests/bench/predict.py memory [--counts 5000 100000]

The files are 32 different JPEGs of 32 x 32, hard links under other names; the model is one of a few nodes, so that what
is told is the cost of everything around a model. Peak memory is what the system says of the process when it ends.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from PIL import Image

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests"))
import tiny_onnx  # noqa: E402


def memory(counts: list[int]) -> None:
    for count in counts:
        with tempfile.TemporaryDirectory() as folder:
            model = tiny_onnx.write(Path(folder) / "model.onnx")
            photos = write(Path(folder) / "photos", count)
            seconds, megabytes, size = predicted(model, photos, Path(folder) / "p.csv")
        print(f"{count} photos: peak {megabytes:.0f} MB, {seconds:.1f} s, {count / seconds:.0f} images/s, {size} rows")


def write(folder: Path, count: int) -> Path:
    folder.mkdir()
    for number in range(count):
        if number < 32:
            Image.fromarray(tiny_onnx.photo(number)).save(folder / f"image_{number}.jpg")
        else:
            os.link(folder / f"image_{number % 32}.jpg", folder / f"image_{number}.jpg")
    return folder


def predicted(model: Path, photos: Path, out: Path) -> tuple[float, float, int]:
    "Seconds, peak megabytes of its process, and rows written."
    command = [sys.executable, "-m", "export.predict", model, photos, "--out", out, "--device", "cpu"]
    begun = time.perf_counter()
    process = subprocess.Popen([*command, "--probabilities"], cwd=ROOT, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0
    unit = 1 if sys.platform == "darwin" else 1024
    return time.perf_counter() - begun, usage.ru_maxrss * unit / 1e6, sum(1 for _ in out.open()) - 1


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["memory"])
    parser.add_argument("--counts", type=int, nargs="+", default=[5000, 100_000])
    arguments = parser.parse_args()
    memory(arguments.counts)
