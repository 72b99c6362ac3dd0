"""What the Learner and a run's callbacks cost, over a loop written by hand with the same tricks, step by step in turn.

Both sides: resnet18 at 96 px, channels last, fused AdamW, bf16 where the CPU has it, accumulation over two, batches in
memory. The learner's loader makes the hand-written step each time it is asked for a group's first batch, so that the
two take turns within one fit, and whatever else the machine does comes to both.
"""

import statistics
import tempfile
import time
from pathlib import Path

import torch
from fastai.data.core import DataLoaders
from torch.nn import functional as F

from toolkit.data.transforms import Draws
from toolkit.learner.accumulate import AccumulateGradients
from toolkit.learner.device import DTYPES, pick_precision
from toolkit.learner.guards import NaNGuard
from toolkit.learner.learner import make_learner
from toolkit.learner.profiler import EpochTimer
from toolkit.models.losses import create_loss
from toolkit.models.timm_model import create_model
from toolkit.options import Options  # noqa: E402
from toolkit.run import Run
from toolkit.training.checkpoint import Checkpoint

ARCH, SIZE, BS, GROUPS, WARM = "resnet18", 96, 32, 60, 5
CPU = torch.device("cpu")


class Batches:
    "The same mini-batches again and again, with what the Learner asks of a loader; between groups of two, `between()`."

    drop_last, device, bs = False, CPU, BS

    def __init__(self, groups, between=lambda: None):
        self.groups, self.between, self.n, self.sampler_state, self.seconds = (
            groups,
            between,
            groups * 2 * BS,
            Draws(0),
            [],
        )
        images = torch.randn(2, BS, 3, SIZE, SIZE)
        self.batches = [(x.contiguous(memory_format=torch.channels_last), torch.randint(0, 10, (BS,))) for x in images]

    def __len__(self):
        return 2 * self.groups

    def __iter__(self):
        for _ in range(self.groups):
            self.between()
            start = time.perf_counter()
            yield from self.batches
            self.seconds.append(time.perf_counter() - start)


def hand_written(batches, precision):
    "One optimiser step after another: (do one, list of their seconds)."
    model = create_model(ARCH, 10, "none", dropout=0.5).to(memory_format=torch.channels_last).train()
    optimiser, seconds = torch.optim.AdamW(model.parameters(), lr=1e-3, fused=True), []

    def step():
        start = time.perf_counter()
        for images, labels in batches:
            with torch.autocast("cpu", DTYPES[precision], enabled=precision != "fp32"):
                logits = model(images)
            (F.cross_entropy(logits.float(), labels) / 2).backward()
        optimiser.step()
        optimiser.zero_grad()
        seconds.append(time.perf_counter() - start)

    return step, seconds


def steps():
    torch.manual_seed(0)
    precision, train = pick_precision("auto", CPU), Batches(GROUPS + WARM)
    train.between, by_hand = hand_written(train.batches, precision)
    model = create_model(ARCH, 10, "none", dropout=0.5)
    dls = DataLoaders(train, Batches(1))
    learn = make_learner(
        Options(lr=1e-3, precision=precision, device="cpu"), dls, model, create_loss("ce"), cbs=[AccumulateGradients(2)]
    )
    with learn.no_bar(), learn.no_logging(), tempfile.TemporaryDirectory() as folder:
        learn.fit(1, cbs=[NaNGuard(), Checkpoint(Run(Path(folder)), 1), EpochTimer()])
    ours, theirs = train.seconds[WARM:], by_hand[WARM:]
    ratio = statistics.median(hand / own for hand, own in zip(theirs, ours, strict=True))
    print(
        f"{GROUPS} steps of 2 x {BS}, {ARCH} at {SIZE} px, {precision}: ours {statistics.median(ours):.3f} s,", end=""
    )
    print(f" by hand {statistics.median(theirs):.3f} s, ratio {ratio:.3f} (at least 0.97)", flush=True)
