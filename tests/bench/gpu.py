"""hw1 on a GPU: resnet152 at 224 pixels in mini-batches of 128, over two loops written by hand on the same files.

One is what people write: NCHW, autocast, GradScaler. The other has every trick: channels last, fused AdamW, TF32,
cuDNN's search. Both read with torchvision in as many workers. Photos a second from the tenth step on, so that starting
the workers and cuDNN's search stay out; the three take turns, the figure is the median of the rounds' ratios.
"""

import statistics
import tempfile
import time
from pathlib import Path

import cv2
import numpy as np
import torch
from fastai.callback.core import Callback
from torch.nn import functional as F
from torch.utils.data import DataLoader
from torchvision import datasets
from torchvision import transforms as T

from recipes import hw1
from toolkit.model import make_model
from toolkit.profile import Profile
from toolkit.speed import torch_flags

ARCH, SIZE, BS, WORKERS, CLASSES, STEPS, WARM, ROUNDS = "resnet152", 224, 128, 16, 8, 96, 10, 3


def write_photos(root):
    "STEPS mini-batches to train on and one to validate: JPEGs of 500 x 375 pixels, of 64 different pictures."
    draws, files = np.random.default_rng(0), []
    for _ in range(64):
        noise = draws.integers(0, 256, (47, 63, 3), dtype=np.uint8)
        files.append(cv2.imencode(".jpg", cv2.resize(noise, (500, 375), interpolation=cv2.INTER_CUBIC))[1].tobytes())
    for split, photos in (("train", STEPS * BS), ("val", BS)):
        for number in range(photos):
            folder = root / split / str(number % CLASSES)
            folder.mkdir(parents=True, exist_ok=True)
            (folder / f"{number}.jpg").write_bytes(files[number % 64])


def now(device):
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


class Steady(Callback):
    "Seconds from step WARM to the last of an epoch, and how Profile splits them."

    order = 101  # after Profile

    def after_batch(self):
        if self.training and self.iter + 1 == WARM:
            self.learn.profile.clock.read()
            self.learn.profile.clock.seconds.clear()
            self.start = now(self.dls.device)

    def after_train(self):
        self.seconds = now(self.dls.device) - self.start
        parts = self.learn.profile.clock.read()
        self.waiting = parts["data_wait"] / sum(parts.values())


def our_round(root, device):
    "A function that trains an epoch: (photos a second, share of time the device waits for photos)."
    learn = hw1.learner(
        root, "ce", arch=ARCH, weights="none", image_size=SIZE, bs=BS, workers=WORKERS, device=device.type
    )

    def run():
        steady = Steady()
        with learn.no_bar(), learn.no_logging():
            learn.fit(1, cbs=[Profile(), steady])
        return (STEPS - WARM) * BS / steady.seconds, steady.waiting

    return run


def by_hand(root, device, tricks):
    "A function that trains an epoch: photos a second."
    layout, fused = (torch.channels_last, {"fused": True}) if tricks else (torch.contiguous_format, {})
    stats = T.Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
    change = T.Compose([T.RandomResizedCrop(SIZE), T.RandomHorizontalFlip(), T.RandomRotation(15), T.ToTensor(), stats])
    files = datasets.ImageFolder(root / "train", change)
    loader = DataLoader(files, BS, shuffle=True, num_workers=WORKERS, pin_memory=device.type == "cuda")
    model = make_model(ARCH, CLASSES, "none", dropout=0.5).to(device, memory_format=layout)
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-3, **fused)
    scaler = torch.amp.GradScaler(device.type)

    def train():
        model.train()
        for index, (images, labels) in enumerate(loader):
            images = images.to(device, non_blocking=True).contiguous(memory_format=layout)
            with torch.autocast(device.type, torch.float16):
                loss = F.cross_entropy(model(images), labels.to(device, non_blocking=True))
            scaler.scale(loss / 2).backward()
            if index % 2:
                scaler.step(optimiser)
                scaler.update()
                optimiser.zero_grad()
            if index + 1 == WARM:
                start = now(device)
        return (STEPS - WARM) * BS / (now(device) - start)

    def run():
        if not tricks:
            return train()
        with torch_flags(device, exact=False):
            return train()

    return run


def measure(device):
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        write_photos(root)
        ours, plain, tricks = our_round(root, device), by_hand(root, device, False), by_hand(root, device, True)
        rounds = [(*ours(), plain(), tricks()) for _ in range(ROUNDS)]
    own, waiting, plain, tricks = (statistics.median(column) for column in zip(*rounds, strict=True))
    print(f"{ARCH} at {SIZE} px, bs {BS}, {WORKERS} workers: ours {own:.0f} photos/s, NCHW {plain:.0f}, ", end="")
    print(f"with the same tricks {tricks:.0f}; waiting for photos {waiting:.1%} of the time (at most 5 %)")
    for name, column, least in (("NCHW", 2, 1.3), ("the same tricks", 3, 0.97)):
        ratio = statistics.median(row[0] / row[column] for row in rounds)
        print(f"ours over {name}: {ratio:.3f} (at least {least})", flush=True)


def main():
    if torch.cuda.is_available():
        print(torch.cuda.get_device_name(), end=": ")
        measure(torch.device("cuda"))
    else:
        print("gpu skipped: torch sees no CUDA device")
