"""Training by hw1's learner over a plain PyTorch loop: steps, epochs, memory. Ratios above 1: ours wins.

    python tests/bench/training.py steps             # a small model, data in memory: what the Learner itself costs
    python tests/bench/training.py epoch             # files to weights, 2 workers: fp32, and --precision auto
    python tests/bench/training.py memory            # peak of each in a process of its own

The plain loop is what people write: torchvision on PIL, ImageFolder, DataLoader, fp32, AdamW, accumulation over two.
The two sides are timed in turn, round by round; the figure is the median of the rounds' ratios.
"""

import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path

import torch
from fastai.data.core import DataLoaders
from torch.nn import functional as F
from torch.utils.data import DataLoader
from torchvision import datasets
from torchvision import transforms as T

from recipes import hw1
from toolkit.callbacks import Accumulate
from toolkit.learner import make_learner
from toolkit.loss import make_loss
from toolkit.model import make_model

DATA = Path(__file__).resolve().parents[3] / "shared" / "data" / "grocery20"
ARCH, SIZE, BS, WORKERS = "resnet18", 128, 32, 2


class Batches(list):
    "Mini-batches in memory, with what the Learner asks of a loader."

    drop_last, device = False, torch.device("cpu")

    def __init__(self, batches):
        super().__init__(batches)
        self.bs, self.n = len(batches[0][1]), sum(len(labels) for _, labels in batches)


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


def steps():
    torch.manual_seed(0)
    batches = Batches([(torch.randn(BS, 3, 64, 64), torch.randint(0, 10, (BS,))) for _ in range(30)])
    model = make_model("test_resnet", 10, "none", image_size=64)
    learn = make_learner(DataLoaders(batches, Batches(batches[:1])), model, make_loss("ce"), 1e-3, cbs=[Accumulate(2)])
    plain = make_model("test_resnet", 10, "none", image_size=64)
    optimiser = torch.optim.AdamW(plain.parameters(), lr=1e-3)
    print("30 steps, test_resnet at 64 px: ", end="")

    def ours():
        with learn.no_bar(), learn.no_logging():
            learn.fit(1)

    def theirs():
        plain_epoch(plain, optimiser, batches)
        plain_validation(plain, batches[:1])

    in_turn(ours, theirs, 9)


def plain_loaders():
    stats = T.Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
    train = T.Compose([T.RandomResizedCrop(SIZE), T.RandomHorizontalFlip(), T.RandomRotation(15), T.ToTensor(), stats])
    valid = T.Compose([T.Resize(round(SIZE * 256 / 224)), T.CenterCrop(SIZE), T.ToTensor(), stats])
    options = {"batch_size": BS, "num_workers": WORKERS}
    return (
        DataLoader(datasets.ImageFolder(DATA / "train", train), shuffle=True, **options),
        DataLoader(datasets.ImageFolder(DATA / "val", valid), **options),
    )


def our_epoch(precision):
    learn = hw1.learner(
        *(DATA, "ce", ARCH, "none"), bs=BS, image_size=SIZE, workers=WORKERS, device="cpu", precision=precision
    )

    def run():
        with learn.no_bar(), learn.no_logging():
            learn.fit(1)

    return run


def their_epoch():
    torch.manual_seed(0)
    model = make_model(ARCH, 20, "none", dropout=0.5)
    optimiser, (train, valid) = torch.optim.AdamW(model.parameters(), lr=1e-3), plain_loaders()

    def run():
        plain_epoch(model, optimiser, train)
        plain_validation(model, valid)

    return run


def epoch():
    for precision in ("fp32", "auto"):
        print(f"epoch of hw1, {ARCH} at {SIZE} px, {WORKERS} workers, --precision {precision}: ", end="", flush=True)
        in_turn(our_epoch(precision), their_epoch(), 3)


def memory():
    peaks = {}
    for side in ("ours", "plain"):
        done = subprocess.run([sys.executable, __file__, "peak", side], capture_output=True, text=True, check=True)
        peaks[side] = int(done.stdout) / 1024
    print(f"peak memory: ours {peaks['ours']:.0f} MiB, plain {peaks['plain']:.0f} MiB, ", end="")
    print(f"ratio {peaks['ours'] / peaks['plain']:.3f}")


def peak(side):
    run = our_epoch("fp32") if side == "ours" else their_epoch()
    run()
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)


if __name__ == "__main__":
    if not DATA.is_dir() and "steps" not in sys.argv:
        sys.exit(f"skipped: {DATA.name} is not beside the project")
    wanted = sys.argv[1:] or ["steps", "epoch", "memory"]
    if wanted[0] == "peak":
        peak(wanted[1])
    else:
        for name in wanted:
            {"steps": steps, "epoch": epoch, "memory": memory}[name]()
