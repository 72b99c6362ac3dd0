"""Seconds per image of the Ray engine on 10^3, 10^4 and 10^5 small JPEGs, and the peak memory of the process behind it.

    python tests/bench/cluster.py [--counts 1000 10000 100000]

The files are 32 different JPEGs of 32 x 32, hard links under other names; the model is one of a few nodes, so that what
is told is the cost of everything around a model. The cluster is one of this machine, begun anew for each line: the
start is the time of a run whose shards are all there already. Actors start within the rest.
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
sys.path.insert(0, str(ROOT / "tests"))
sys.path.insert(0, str(ROOT / "tests" / "bench"))
import tiny_onnx  # noqa: E402
from predict import write  # noqa: E402

RUN = """
import sys
from export.cluster import predict_on_cluster
predict_on_cluster(*sys.argv[1:4], device="cpu", probabilities=True, resume=True)
"""


def level(counts: list[int]) -> None:
    print("  images   start s   rest s   ms/image with start   without   peak MB")
    for count in counts:
        with tempfile.TemporaryDirectory() as folder:
            model = tiny_onnx.write(Path(folder) / "model.onnx")
            photos, out = write(Path(folder) / "photos", count), Path(folder) / "predictions"
            whole, megabytes = predicted(model, photos, out)
            assert json.loads((out / "_SUCCESS").read_text()) == {"images": count, "unread": 0}
            start, _ = predicted(model, photos, out)
        each, without = 1000 * whole / count, 1000 * (whole - start) / count
        print(f"{count:8} {start:9.1f} {whole - start:8.1f} {each:21.3f} {without:9.3f} {megabytes:9.0f}", flush=True)


def predicted(model: Path, photos: Path, out: Path) -> tuple[float, float]:
    "Seconds, and peak megabytes of the process that started the run."
    command = [sys.executable, "-c", RUN, model, photos, out]
    begun = time.perf_counter()
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0
    return time.perf_counter() - begun, usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024) / 1e6


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--counts", type=int, nargs="+", default=[1000, 10_000, 100_000])
    level(parser.parse_args().counts)
