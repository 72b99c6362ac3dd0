"""Seconds that an epoch of a learner will take, measured on a few batches; epochs that fit into a time."""

import math
from time import perf_counter

import torch
from fastai.callback.core import Callback, CancelFitException, CancelTrainException, CancelValidException

from toolkit.learner.cuda_graphs.callback import SEEN, CudaGraphs
from toolkit.learner.learner import Learner
from toolkit.search.snapshot import trying_a_fit

SMALLEST = 7 / 8  # of the image size: the smallest training squares that are planned for one more epoch


def seconds_per_epoch(learn: Learner, batches: int = 8, at_most: float = 30.0) -> float:
    "Seconds that an epoch of `learn.fit` will take: the sum of `epoch_seconds`."
    return sum(epoch_seconds(learn, batches, at_most))


def epoch_seconds(learn: Learner, batches: int = 8, at_most: float = 30.0) -> tuple[float, float]:
    """Return the seconds that training and validation of an epoch will take, by a few batches that are then undone.

    They include the wait for photos, copying, forward and backward passes, optimiser steps, the learner's callbacks in
    training, and validation. At least `batches` batches (rounded up to whole optimiser steps) are timed. Before them
    the first step is left out, in which buffers are made and the GPU's libraries loaded, and as many batches as the
    workers read ahead meanwhile. With --cuda_graphs the batch that is recorded is left out too. A pass that is not much
    longer is timed whole, in a second epoch, when the workers have started; so this takes two short epochs at most. A
    longer pass includes their start.
    If steps are slow, a pass is cut as soon as it has taken `at_most` seconds and timed one step after the first.

    They do not include what `training.fit.fit` writes after an epoch, nor that photos are slower to read for the first
    time. On a machine with other users the result is only as good as their load is steady.
    """
    if batches < 1:
        raise ValueError(f"cannot time {batches} batches: give 1 or more")
    clock = EpochClock(batches, at_most)
    with trying_a_fit(learn), learn.no_logging(), learn.no_bar():
        learn.fit(2, cbs=clock)
    return clock.seconds["train"], clock.seconds["valid"]


class EpochClock(Callback):
    "Measures the `seconds` of an epoch's training and validation, and cuts the fit short."

    order = 100  # after all others, so that what they do is timed too

    def __init__(self, batches: int, at_most: float):
        self.batches, self.at_most = batches, at_most
        self.seconds: dict[str, float] = {}

    def before_train(self) -> None:
        self._start(self.learn.accum)

    def before_validate(self) -> None:
        self._start(1)

    def _start(self, group: int) -> None:
        ahead = 2 * self.dl.fake_l.num_workers  # torch's prefetch_factor
        ahead = max(ahead, SEEN) if self.learn.callback(CudaGraphs) else ahead  # the recording is left out too
        self.group, self.ready = group, group * -(-(ahead + 1) // group)
        self.enough = self.ready + group * -(-self.batches // group)
        self.done, self.waited, self.first, self.start = 0, 0.0, None, perf_counter()
        self.ended = self.start

    def before_batch(self) -> None:
        wait = perf_counter() - self.ended
        self.waited += wait
        self.first = wait if self.first is None else self.first

    def after_batch(self) -> None:
        self.done += 1
        if self.done % self.group == 0 and self.done < len(self.dl):
            self._at_step(self.done)
        self.ended = perf_counter()

    def _at_step(self, done: int) -> None:
        slow = perf_counter() - self.start > self.at_most and done > self.group
        if slow or done == self.enough:
            self._end(done)
        if done in (self.group, self.ready):
            self.since, self.waited = (done, self._now()), 0.0

    def _end(self, done: int) -> None:
        "Extrapolate the pass from the batches since `since`: their mean, plus the extra wait for the first one."
        batches = done - self.since[0]
        each, wait = (self._now() - self.since[1]) / batches, self.waited / batches
        share = self.dl.n / self.dl.bs  # batches of the pass, the short last one by its photos
        self.seconds[self._part] = each * share + max(0.0, self.first - wait)
        raise CancelTrainException if self.training else CancelValidException

    def after_epoch(self) -> None:
        if not self.trained_whole:  # else the second epoch is the one that is timed
            raise CancelFitException

    def after_train(self) -> None:
        self._whole()

    def after_validate(self) -> None:
        self._whole()

    def _whole(self) -> None:
        "If the pass came to its end, its own seconds are the result."
        whole = self.done >= len(self.dl)
        if self._part == "train":
            self.trained_whole = whole
        if whole:
            self.seconds[self._part] = self._now() - self.start

    @property
    def _part(self) -> str:
        return "train" if self.training else "valid"

    def _now(self) -> float:
        "The time, after the device has finished its work."
        if self.dls.device.type == "cuda":
            torch.cuda.synchronize(self.dls.device)
        return perf_counter()


def epochs_and_size(seconds: float, train: float, valid: float, size: int) -> tuple[int, int]:
    """Return the number of epochs that fit into `seconds`, and the side of the training squares in their first half.

    It is the number that fits at `size` pixels, or one more if squares at most an eighth smaller make time for it.
    train, valid: seconds of the two parts of an epoch at `size`. The time of training is proportional to the area.
    """
    epochs = max(0, int(seconds / (train + valid)))
    more = epochs + 1
    half = (more + 1) // 2  # as `toolkit.finetuning.progressive_resizing.ProgressiveResizing` counts
    area = (seconds - more * valid - (more - half) * train) / (half * train)
    smaller = 8 * int(size * math.sqrt(max(area, 0)) / 8)
    return (more, smaller) if smaller >= SMALLEST * size else (epochs, size)
