"""hw1 on a GPU: resnet152 at 224 pixels in batches of 128, beside loops written by hand. Photos a second.

    python tests/bench/gpu.py                        # ours, by_hand, nchw, ceiling
    python tests/bench/gpu.py ours bf16 compiled     # precisions and --compile
    ARCH=mobilenetv2_100 BS=64 STEPS=200 WARM=50 python tests/bench/gpu.py ours graphs    # another network

With steps of a few milliseconds, workers must have come to their pace before the clock starts: at first they have two
batches each ahead.

    ours       hw1's learner, fp16, on JPEG files
    by_hand    a loop with every trick (channels last, fused AdamW, TF32, cuDNN's search) on the same files
    nchw       a loop as people write it (NCHW, autocast, GradScaler) on the same files
    ceiling    by_hand's loop on batches that lie in the GPU's memory
    searched   ours with cuDNN's search
    bf16       ours in bf16
    compiled   ours with --compile
    graphs     ours with --cuda_graphs

The loops by hand read with torchvision in as many workers. Each side has a process of its own, because cuDNN keeps what
it chose for a shape. All start at once; then they take turns. The steps after the first WARM of each turn are timed, so
that the start of workers stays out. A ratio is the median of the rounds' ratios. Memory is the most that torch reserved
on the GPU.
"""

import os
import statistics
import sys
import tempfile
import time
from pathlib import Path

import cv2
import numpy as np
import torch
from fastai.callback.core import Callback, CancelFitException
from torch.nn import functional as F
from torch.utils.data import DataLoader
from torchvision import datasets
from torchvision import transforms as T

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))
from apart import Apart  # noqa: E402

from recipes import hw1  # noqa: E402
from toolkit.learner.profiler import Profile  # noqa: E402
from toolkit.models.timm_model import create_model  # noqa: E402

ARCH, BS = os.environ.get("ARCH", "resnet152"), int(os.environ.get("BS", "128"))
WORKERS = len(os.sched_getaffinity(0))
SIZE, CLASSES, ROUNDS = 224, 8, 3
STEPS, WARM = int(os.environ.get("STEPS", "40")), int(os.environ.get("WARM", "10"))
BARS = {"by_hand": 0.95, "nchw": 1.6, "ceiling": 0.9}
OURS = {  # options, and whether cuDNN searches
    "ours": [{}],
    "searched": [{}, True],
    "bf16": [{"precision": "bf16"}],
    "compiled": [{"compile": True}],
    "graphs": [{"cuda_graphs": True}],
}
WAITING = 0.05


def write_photos(root):
    "STEPS batches to train on and one to validate: JPEGs of 500 x 375 pixels, of 64 different pictures."
    draws, files = np.random.default_rng(0), []
    for _ in range(64):
        noise = draws.integers(0, 256, (47, 63, 3), dtype=np.uint8)
        files.append(cv2.imencode(".jpg", cv2.resize(noise, (500, 375), interpolation=cv2.INTER_CUBIC))[1].tobytes())
    for split, photos in (("train", STEPS * BS), ("val", BS)):
        for number in range(photos):
            folder = root / split / str(number % CLASSES)
            folder.mkdir(parents=True, exist_ok=True)
            (folder / f"{number}.jpg").write_bytes(files[number % 64])


def memory():
    return torch.cuda.max_memory_reserved() / 2**30


def now():
    torch.cuda.synchronize()
    return time.perf_counter()


# The sides: each makes a function that takes a number of steps and returns figures


class Steady(Callback):
    "Seconds from step WARM to the last of `steps`, and how Profile splits them; then the fit ends."

    order = 101  # after Profile

    def __init__(self, steps):
        self.steps = steps

    def after_batch(self):
        if self.iter + 1 == WARM:
            self.profile.clock.read()
            self.profile.clock.seconds.clear()
            self.start = now()
        if self.iter + 1 == self.steps:
            self.seconds = now() - self.start
            parts = self.profile.clock.read()
            self.waiting = parts["data_wait"] / sum(parts.values())
            raise CancelFitException


def learner(root, options, search=False):
    torch.backends.cudnn.benchmark = search
    learn = hw1.learner(
        root, arch=ARCH, weights="none", image_size=SIZE, bs=BS, workers=WORKERS, device="cuda", **options
    )

    def run(steps):
        with learn.no_bar(), learn.no_logging():
            learn.fit(1, cbs=[Profile(), steady := Steady(steps)])
        return {"rate": (steps - WARM) * BS / steady.seconds, "waiting": steady.waiting, "memory": memory()}

    return run


def by_hand(root, tricks, files):
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.benchmark = tricks
    layout, fused = (torch.channels_last, {"fused": True}) if tricks else (torch.contiguous_format, {})
    model = create_model(ARCH, CLASSES, "none", dropout=0.5).to("cuda", memory_format=layout).train()
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-3, **fused)
    scaler, batches = torch.amp.GradScaler("cuda"), file_batches(root) if files else memory_batches(layout)

    def run(steps):
        for index, (images, labels) in enumerate(batches):
            images = images.to("cuda", non_blocking=True).contiguous(memory_format=layout)
            with torch.autocast("cuda", torch.float16):
                loss = F.cross_entropy(model(images), labels.to("cuda", non_blocking=True))
            scaler.scale(loss / 2).backward()
            if index % 2:
                scaler.step(optimiser)
                scaler.update()
                optimiser.zero_grad()
            if index + 1 == WARM:
                start = now()
            if index + 1 == steps:
                return {"rate": (steps - WARM) * BS / (now() - start), "memory": memory()}

    return run


def file_batches(root):
    stats = T.Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
    change = T.Compose([T.RandomResizedCrop(SIZE), T.RandomHorizontalFlip(), T.RandomRotation(15), T.ToTensor(), stats])
    files = datasets.ImageFolder(root / "train", change)
    return DataLoader(files, BS, shuffle=True, num_workers=WORKERS, pin_memory=True)


def memory_batches(layout):
    images = torch.randn(BS, 3, SIZE, SIZE, device="cuda").contiguous(memory_format=layout)
    return [(images, torch.arange(BS, device="cuda") % CLASSES)] * STEPS


def side(name, root):
    if name in OURS:
        return Apart(learner, root, *OURS[name])
    return Apart(by_hand, root, name != "nchw", name != "ceiling")


def measure(names):
    with tempfile.TemporaryDirectory() as folder:
        write_photos(Path(folder))
        begun, sides = time.perf_counter(), {name: side(name, Path(folder)) for name in names}
        first = {name: one.begin(WARM + 2) for name, one in sides.items()}  # imports, the search, a program
        for name in names:
            if result(name, first[name], sides):
                print(f"{name} ready after {time.perf_counter() - begun:.0f} s", flush=True)
        rounds = []
        for _ in range(ROUNDS):
            done = {name: result(name, sides[name].begin(STEPS), sides) for name in list(sides)}
            rounds.append(done)
            print(
                "photos/s:", ", ".join(f"{name} {each['rate']:.0f}" for name, each in done.items() if each), flush=True
            )
        for one in sides.values():
            one.end()
    tell(list(sides), rounds)


def result(name, done, sides):
    "The figures of a side; None if it fails, which ends it and no other side."
    if error := done.exception():
        print(f"{name} failed: {type(error).__name__}: {error}", flush=True)
        sides.pop(name).end()
        return None
    return done.result()


def tell(names, rounds):
    print(f"{torch.cuda.get_device_name()}, {ARCH} at {SIZE} px, bs {BS}, {WORKERS} workers, {ROUNDS} rounds")
    for name in names:
        rates = [each[name]["rate"] for each in rounds]
        line = f"{name:9} {statistics.median(rates):6.0f} photos/s ({min(rates):.0f} to {max(rates):.0f})"
        line += f", {max(each[name]['memory'] for each in rounds):.1f} GiB"
        if "waiting" in rounds[0][name]:
            waiting = statistics.median(each[name]["waiting"] for each in rounds)
            line += f", waiting for photos {waiting:.1%} of the time (at most {WAITING:.0%})"
        for own in (own for own in names if own in OURS and own != name):
            line += (
                f", {own} over it {statistics.median(each[own]['rate'] / each[name]['rate'] for each in rounds):.3f}"
            )
        print(line + (f" (at least {BARS[name]})" if name in BARS else ""), flush=True)


def main(names=()):
    if torch.cuda.is_available():
        measure(list(names) or ["ours", "by_hand", "nchw", "ceiling"])
    else:
        print("gpu skipped: torch sees no CUDA device")


if __name__ == "__main__":
    if "--help" in sys.argv:
        sys.exit(print(__doc__))
    if unknown := set(sys.argv[1:]) - {*OURS, *BARS}:
        sys.exit(f"unknown side {', '.join(sorted(unknown))}: choose of {', '.join([*OURS, *BARS])}")
    main(sys.argv[1:])
