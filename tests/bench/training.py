"""Training by hw1's learner over loops of plain PyTorch: epochs, steps, memory, a GPU. Ratios above 1: ours wins.

    python tests/bench/training.py epoch             # files to weights, 2 workers, speed defaults: at least 1.5
    python tests/bench/training.py steps             # a loop with the same tricks, step by step: at least 0.97
    python tests/bench/training.py kept              # steps with memory kept from one to the next over steps without
    python tests/bench/training.py waiting           # OpenMP's threads: awake for a moment, or asleep
    python tests/bench/training.py memory            # peak of each in a process of its own
    python tests/bench/training.py gpu               # resnet152 at 224, as tests/bench/gpu.py says

The plain loop is what people write: torchvision on PIL, ImageFolder, DataLoader, fp32, AdamW, accumulation over two.
The two sides are timed in turn, round by round; the figure is the median of the rounds' ratios. A side without kept
memory runs in a process of its own.
"""

import os
import statistics
import subprocess
import sys
import time
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from unittest.mock import patch

import torch
from torch.nn import functional as F
from torch.utils.data import DataLoader
from torchvision import datasets
from torchvision import transforms as T

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))
import gpu  # noqa: E402
import overhead  # noqa: E402
from apart import Apart  # noqa: E402

from recipes import hw1, rapid  # noqa: E402
from toolkit import SPINS  # noqa: E402
from toolkit.finetuning.linear_probe import features_of  # noqa: E402
from toolkit.learner.device import DTYPES, peak_memory, pick_precision  # noqa: E402
from toolkit.learner.performance import retaining_freed_memory  # noqa: E402
from toolkit.models.timm_model import create_model  # noqa: E402

DATA = ROOT.parent / "shared" / "data" / "grocery20"
ARCH, SIZE, BS, WORKERS = "resnet18", 128, 32, 2
CPU = torch.device("cpu")


def plain_epoch(model, optimiser, batches):
    model.train()
    for index, (images, labels) in enumerate(batches):
        loss = F.cross_entropy(model(images), labels)
        (loss / 2).backward()
        if index % 2 or index + 1 == len(batches):
            optimiser.step()
            optimiser.zero_grad()


def plain_validation(model, batches):
    model.eval()
    with torch.no_grad():
        right = sum((model(images).argmax(1) == labels).sum().item() for images, labels in batches)
    return right


def in_turn(ours, theirs, rounds):
    "Median of theirs' seconds over ours', each timed `rounds` times in turn after one round of warming up."
    ratios, seconds = [], []
    for number in range(rounds + 1):
        pair = []
        for run in (ours, theirs) if number % 2 else (theirs, ours):
            start = time.perf_counter()
            run()
            pair.append((run, time.perf_counter() - start))
        taken = dict(pair)
        if number:
            ratios.append(taken[theirs] / taken[ours])
            seconds.append((taken[ours], taken[theirs]))
    ours_s, theirs_s = (statistics.median(column) for column in zip(*seconds, strict=True))
    print(f"ours {ours_s:.2f} s, plain {theirs_s:.2f} s, ratio {statistics.median(ratios):.3f} (rounds: ", end="")
    print(", ".join(f"{ratio:.3f}" for ratio in ratios) + ")", flush=True)


def plain_loaders(data, size):
    stats = T.Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
    train = T.Compose([T.RandomResizedCrop(size), T.RandomHorizontalFlip(), T.RandomRotation(15), T.ToTensor(), stats])
    valid = T.Compose([T.Resize(round(size * 256 / 224)), T.CenterCrop(size), T.ToTensor(), stats])
    options = {"batch_size": BS, "num_workers": WORKERS}
    return (
        DataLoader(datasets.ImageFolder(data / "train", train), shuffle=True, **options),
        DataLoader(datasets.ImageFolder(data / "val", valid), **options),
    )


def our_epoch(data, arch, size, precision="auto", cache=None):
    learn = hw1.learner(
        data, arch=arch, weights="none", bs=BS, image_size=size, workers=WORKERS, device="cpu", precision=precision,
        cache=cache,
    )  # fmt: skip

    def run():
        with learn.no_bar(), learn.no_logging():
            learn.fit(1)

    return run


def their_epoch(data, arch, size):
    torch.manual_seed(0)
    model = create_model(arch, 20, "none", dropout=0.5, image_size=size)
    optimiser, (train, valid) = torch.optim.AdamW(model.parameters(), lr=1e-3), plain_loaders(data, size)

    def run():
        plain_epoch(model, optimiser, train)
        plain_validation(model, valid)

    return run


def epoch():
    print(f"epoch of hw1, {ARCH} at {SIZE} px, {WORKERS} workers, speed defaults over plain fp32: ", end="", flush=True)
    in_turn(our_epoch(DATA, ARCH, SIZE), Apart(their_epoch, DATA, ARCH, SIZE), 5)


def ten_steps(arch, size, context):
    torch.manual_seed(0)
    model = create_model(arch, 20, "none", dropout=0.5, image_size=size).to(memory_format=torch.channels_last).train()
    images = torch.randn(BS, 3, size, size).contiguous(memory_format=torch.channels_last)
    optimiser, labels = torch.optim.AdamW(model.parameters(), lr=1e-3, fused=True), torch.randint(0, 20, (BS,))
    precision = pick_precision("auto", CPU)

    def run():
        with context(CPU):
            for _ in range(10):
                with torch.autocast("cpu", DTYPES[precision], enabled=precision != "fp32"):
                    logits = model(images)
                F.cross_entropy(logits.float(), labels).backward()
                optimiser.step()
                optimiser.zero_grad()

    return run


def kept():
    for arch, size in (("resnet10t", 96), ("resnet18", 128), ("mobilenetv2_100", 128)):
        print(f"steps of {BS}, {arch} at {size} px, memory kept over given back: ", end="", flush=True)
        in_turn(ten_steps(arch, size, retaining_freed_memory), Apart(ten_steps, arch, size, nullcontext), 5)


def our_pass(data, arch, size):
    "The validation forward pass over the training photos, as of a linear probe."
    learn = hw1.learner(data, arch=arch, weights="none", bs=BS, image_size=size, workers=WORKERS, device="cpu")
    return partial(features_of, learn)


def small_steps(data, arch, size):
    "An epoch of rapid after the probe: batches of 16, the first third of the network frozen."
    kept = {"frozen": 1 / 3, "batch_norm": "fixed", "probe": False}
    learn = rapid.learner(
        data, arch=arch, weights="none", bs=16, lr=1e-6, image_size=size, workers=WORKERS, device="cpu", **kept
    )  # fmt: skip

    def run():
        with learn.no_bar(), learn.no_logging():
            learn.fit(1)

    return run


def waiting():
    ways = {f"awake for {SPINS} turns": {"GOMP_SPINCOUNT": SPINS}, "asleep": {"OMP_WAIT_POLICY": "PASSIVE"}}
    for work, make in (("features", our_pass), ("an epoch of hw1", our_epoch), ("an epoch of rapid", small_steps)):
        for name, policy in ways.items():
            print(f"{work}, mobilenetv2_100 at {SIZE} px, {WORKERS} workers, {name} over torch's: ", end="", flush=True)
            in_turn(apart_with(policy, make), apart_with({}, make), 5)


def apart_with(policy, make):
    "A side in a process with this policy of OpenMP, which is read when torch is imported, or with torch's own."
    own = {"GOMP_SPINCOUNT": "300000"}  # libgomp's, by its documentation; the toolkit would set another
    with patch.dict(os.environ):
        for name in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY"):
            os.environ.pop(name, None)
        os.environ |= policy or own
        side = Apart(make, DATA, "mobilenetv2_100", SIZE)
        side.process.submit(int).result()  # starts the process
    return side


def memory():
    peaks = {}
    for side in ("ours", "plain"):
        done = subprocess.run([sys.executable, __file__, "peak", side], capture_output=True, text=True, check=True)
        peaks[side] = int(done.stdout) / 2**20
    print(f"peak memory: ours {peaks['ours']:.0f} MiB, plain {peaks['plain']:.0f} MiB, ", end="")
    print(f"ratio {peaks['ours'] / peaks['plain']:.3f}")


def peak(side):
    run = our_epoch(DATA, ARCH, SIZE, "fp32") if side == "ours" else their_epoch(DATA, ARCH, SIZE)
    run()
    print(peak_memory(CPU))


if __name__ == "__main__":
    if "--help" in sys.argv:
        sys.exit(print(__doc__))
    wanted = sys.argv[1:] or ["epoch", "steps", "kept", "waiting", "memory", "gpu"]
    if wanted[0] == "peak":
        peak(wanted[1])
    for name in wanted if wanted[0] != "peak" else ():
        if name in ("epoch", "waiting", "memory") and not DATA.is_dir():
            print(f"{name} skipped: {DATA.name} is not beside the project")
        elif name == "steps":
            overhead.steps()
        elif name == "gpu":
            gpu.main()
        else:
            {"epoch": epoch, "kept": kept, "waiting": waiting, "memory": memory}[name]()
