"""The time that it takes to compare and to train networks, against the minutes of `--arch auto`."""

from time import perf_counter
from typing import NamedTuple

import torch
from torch import Tensor, nn

from toolkit.learner.learner import Learner
from toolkit.learner.performance import fast_math
from toolkit.models.catalogue import Network

BACKWARD = 2  # ratio of the time of a backward pass to that of a forward pass
LEAST_EPOCHS = 3  # of training, for which there must be time
SHARE = 1 / 3  # of the budget, for comparing


class Task(NamedTuple):
    "The photos that a network is to be trained on, and the device that computes."

    train: int
    valid: int
    size: int  # side of the squares, in pixels
    device: str  # cpu or cuda


def task_of(learn: Learner) -> Task:
    "Return the task of a learner."
    data = learn.dls.data
    return Task(len(data.train), len(data.valid), learn.dls.preprocess["crop"], learn.dls.device.type)


def training_seconds(task: Task, each: float, epochs: int) -> float:
    """Return the seconds of `epochs` epochs of training, each with its validation; less if layers are frozen.

    each: seconds of a forward pass a photo. Reading photos is not counted: workers read while the network computes.
    """
    return epochs * each * ((1 + BACKWARD) * task.train + task.valid)


@torch.no_grad()
def forward_seconds(learn: Learner, photos: int = 8, times: int = 3) -> float:
    """Return the seconds of a forward pass a photo, without reading it.

    One batch is not timed, then the fastest of several counts: the others had other users of the machine beside them.
    """
    size, device, mode = learn.dls.preprocess["crop"], learn.dls.device, learn.model.training
    images = torch.zeros(photos, 3, size, size, device=device)
    try:
        learn.model.eval()
        with fast_math(device, learn.exact):
            spent = [_seconds(learn.model, images) for _ in range(1 + times)]
    finally:
        learn.model.train(mode)
    return min(spent[1:]) / photos


def _seconds(model: nn.Module, images: Tensor) -> float:
    start = perf_counter()
    float(model(images).sum())  # waits for the device
    return perf_counter() - start


def published_seconds(network: Network, task: Task) -> float | None:
    "Return the seconds of a forward pass a photo by the catalogue's speed, in proportion to the area, if it has one."
    speed = network.cpu if task.device == "cpu" else network.gpu
    return None if speed is None else (task.size / network.pixels) ** 2 / speed


class Budget:
    "The time for comparing and training, which begins to run now; None is no limit."

    def __init__(self, minutes: float | None):
        self.minutes, self.start = minutes, perf_counter()
        self.seconds = None if minutes is None else 60 * minutes
        self.task: Task | None = None
        self.slowness: float | None = None  # ratio of this machine's time to the published one
        self.shortest: tuple[float, str] | None = None  # least training of all timed networks in seconds, and whose

    def spent(self) -> float:
        "Return the seconds since the start."
        return perf_counter() - self.start

    def is_spent(self) -> bool:
        "True if no time is left for comparing."
        return self.seconds is not None and self.spent() > SHARE * self.seconds

    def timed(self, network: Network | None, learn: Learner, each: float) -> None:
        "Remember that a forward pass of this learner's network takes `each` seconds a photo."
        self.task = task_of(learn)
        least = training_seconds(self.task, each, LEAST_EPOCHS), learn.options.arch
        self.shortest = min(least, self.shortest or least)
        if expected := network and published_seconds(network, self.task):
            self.slowness = each / expected

    def fault(self, each: float, first: bool) -> str | None:
        """Return why there is no time to compare and train a network that was just `timed`, or None.

        first: comparing may take any time.
        """
        training = training_seconds(self.task, each, LEAST_EPOCHS)
        if training > (1 - SHARE) * self.seconds:
            return f"{LEAST_EPOCHS} epochs would take {training / 60:.2g} minutes"
        if not first and self.spent() + each * self.task.train > SHARE * self.seconds:
            return "to compare it too would take more than a third of the minutes"
        return None

    def fits(self, network: Network) -> bool:
        "True if there is time to train this network, by its published speed and the networks timed so far."
        if self.seconds is None or self.slowness is None:
            return True
        each = published_seconds(network, self.task)
        least = each and training_seconds(self.task, each * self.slowness, LEAST_EPOCHS)
        return bool(least) and least <= (1 - SHARE) * self.seconds
