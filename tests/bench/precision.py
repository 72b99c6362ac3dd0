"""fp16 against bf16 on a GPU, which `--precision auto` chooses between: accuracy and seconds an epoch of hw1, in turn.

    python tests/bench/precision.py DATA WEIGHTS [EPOCHS] [SEEDS]

mobilenetv2_100 at 224 pixels, mini-batches of 64. Accuracy is that of the best epoch on the validation photos, which
chose it; it serves to compare the two, no more.
"""

import statistics
import sys
from pathlib import Path
from time import perf_counter

import torch

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))
from recipes import hw1  # noqa: E402


def trained(data, weights, precision, seed, epochs):
    "Best validation accuracy, and seconds of an epoch after the first."
    learn = hw1.learner(
        data, arch="mobilenetv2_100", weights=weights, bs=64, precision=precision, seed=seed, device="cuda"
    )
    with learn.no_bar(), learn.no_logging():
        learn.fit(1)
        begun = perf_counter()
        learn.fit(epochs - 1)
        seconds = (perf_counter() - begun) / (epochs - 1)
    return max(row[-1] for row in learn.recorder.values), seconds


def main(data, weights, epochs="6", seeds="2"):
    if not torch.cuda.is_available():
        return print("precision skipped: torch sees no CUDA device")
    found = {"fp16": [], "bf16": []}
    for seed in range(int(seeds)):
        for precision, rows in found.items():
            rows.append(trained(data, weights, precision, seed, int(epochs)))
    for precision, rows in found.items():
        accuracies = ", ".join(f"{accuracy:.1%}" for accuracy, _ in rows)
        print(f"{precision}: accuracy {accuracies}; {statistics.median(row[1] for row in rows):.2f} s an epoch")


if __name__ == "__main__":
    if "--help" in sys.argv or len(sys.argv) < 3:
        sys.exit(print(__doc__))
    main(*sys.argv[1:])
