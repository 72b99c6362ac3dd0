"""Cost per image of the Ray engine on 10^3, 10^4 and 10^5 small JPEGs, and peak memory of the process that starts it.

    python tests/bench/cluster.py [--counts 1000 10000 100000] [--times 3]

The files are 32 different JPEGs of 32 x 32, hard links under other names; the model is one of a few nodes, so that
what is told is the cost of everything around a model. The cluster is one of this machine, begun anew for each run.
`whole` is the run, from nothing to _SUCCESS; `steady` leaves out the start of Ray and of the actors: it is what passed
between the first shard and the last. Both are the best of so many times.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]  # tests/toolkit is not our toolkit
import tiny_onnx  # noqa: E402
from PIL import Image  # noqa: E402

RUN = """
import sys
from export.predict import predict
predict(*sys.argv[1:4], "cpu", probabilities=True, engine="ray")
"""


def level(counts: list[int], times: int) -> None:
    print("  images   whole s   ms/image   steady ms/image   peak MB")
    for count in counts:
        with tempfile.TemporaryDirectory() as folder:
            model = tiny_onnx.write(Path(folder) / "model.onnx")
            photos, out = write(Path(folder) / "photos", count), Path(folder) / "predictions"
            runs = [predicted(model, photos, out, count) for _ in range(times)]
        whole, steady, megabytes = (min(figures) for figures in zip(*runs, strict=True))
        print(f"{count:8} {whole:9.1f} {1000 * whole / count:10.3f} {steady:17.3f} {megabytes:9.0f}", flush=True)


def write(folder: Path, count: int) -> Path:
    folder.mkdir()
    for number in range(count):
        if number < 32:
            Image.fromarray(tiny_onnx.photo(number)).save(folder / f"image_{number}.jpg")
        else:
            os.link(folder / f"image_{number % 32}.jpg", folder / f"image_{number}.jpg")
    return folder


def predicted(model: Path, photos: Path, out: Path, count: int) -> tuple[float, float, float]:
    "Seconds in all, milliseconds an image between the first shard and the last, peak megabytes of the process."
    begun = time.perf_counter()
    process = subprocess.Popen([sys.executable, "-c", RUN, model, photos, out], cwd=ROOT, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    seconds, process.returncode = time.perf_counter() - begun, os.waitstatus_to_exitcode(status)
    assert process.returncode == 0
    assert json.loads((out / "_SUCCESS").read_text()) == {"images": count, "unread": 0}
    shards = sorted(path.stat().st_mtime for path in out.glob("part-*"))
    after_the_first = count - json.loads((out / "_run.json").read_text())["a shard"]
    steady = 1000 * (shards[-1] - shards[0]) / after_the_first
    return seconds, steady, usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024) / 1e6


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--counts", type=int, nargs="+", default=[1000, 10_000, 100_000])
    parser.add_argument("--times", type=int, default=3)
    arguments = parser.parse_args()
    level(arguments.counts, arguments.times)
