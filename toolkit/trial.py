"""Training that leaves no trace: a learner put back as it was, and from a few such steps the seconds of an epoch."""

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from functools import partial
from time import perf_counter
from typing import Any

import torch
from fastai.callback.core import Callback, CancelFitException, CancelTrainException, CancelValidException
from fastai.learner import Metric
from fastai.optimizer import _BaseOptimizer
from fastcore.foundation import L
from torch import Tensor, nn

from toolkit.checkpoint import random_state, set_random_state
from toolkit.learner import Learner

# A learner put back


@contextlib.contextmanager
def unchanged(learn: Learner) -> Iterator[Learner]:
    """`learn`, to be trained or changed inside; afterwards, an error or Ctrl-C too, it is bit for bit what it was.

    Put back are weights, buffers, gradients, what is frozen and which mode each module is in; the optimiser (none,
    where there was none) with its state and rates; the generators of random numbers; order, draws, batch size and
    number of workers of the loaders; the learner's own attributes and its callbacks, with the tensors, lists, metrics,
    schedulers and averaged models that these hold. Objects stay the same ones. The copies lie in the host's memory.
    """
    undo: list[Callable[[], object]] = [partial(set_random_state, random_state())]
    seen: set[int] = set()
    for part in (learn.model, learn.opt, learn.dls.loaders, learn.cbs, learn.metrics):
        _keep(part, undo, seen)
    for thing in (learn, learn.dls, *learn.dls.loaders):
        _keep_attributes(thing, undo)
    for loader in learn.dls.loaders:
        undo.append(partial(loader.rng.setstate, loader.rng.getstate()))
        _keep_attributes(loader.fake_l, undo)
        _keep_attributes(loader.draws, undo)
    try:
        yield learn
    finally:
        with _undisturbed():
            for put_back in undo:
                put_back()


def _keep(value: Any, undo: list[Callable[[], object]], seen: set[int]) -> None:
    "Add to `undo` what puts the contents of `value` back, where it is a thing that training changes, or holds some."
    if id(value) in seen:
        return
    seen.add(id(value))
    if isinstance(value, Tensor):
        undo.append(partial(_fill, value, value.detach().to("cpu", copy=True)))
    elif isinstance(value, nn.Module):
        _keep_module(value, undo, seen)
    elif isinstance(value, L):
        _keep(value.items, undo, seen)
    elif isinstance(value, list):
        undo.append(partial(value.__setitem__, slice(None), list(value)))
        _keep_all(value, undo, seen)
    elif isinstance(value, dict):
        undo.append(partial(_refill, value, dict(value)))
        _keep_all(value.values(), undo, seen)
    elif isinstance(value, (Callback, Metric, _BaseOptimizer, torch.optim.Optimizer)):
        _keep(vars(value), undo, seen)
    elif hasattr(value, "load_state_dict"):  # a scheduler, a gradient scaler
        _keep(state := value.state_dict(), undo, seen)
        undo.append(partial(value.load_state_dict, state))


def _keep_all(values: Any, undo: list[Callable[[], object]], seen: set[int]) -> None:
    for value in values:
        _keep(value, undo, seen)


def _keep_module(model: nn.Module, undo: list[Callable[[], object]], seen: set[int]) -> None:
    for module in model.modules():
        undo.append(partial(setattr, module, "training", module.training))
        for tensors in (module._parameters, module._buffers):  # the dicts: a layer's weight may be replaced
            _keep(tensors, undo, seen)
    for weight in model.parameters():
        undo.append(partial(weight.requires_grad_, weight.requires_grad))
        undo.append(partial(setattr, weight, "grad", weight.grad))
        _keep(weight.grad, undo, seen)


def _keep_attributes(thing: Any, undo: list[Callable[[], object]]) -> None:
    undo.append(partial(_refill, vars(thing), dict(vars(thing))))


@torch.no_grad()
def _fill(tensor: Tensor, kept: Tensor) -> None:
    tensor.copy_(kept)


def _refill(contents: dict, kept: dict) -> None:
    contents.clear()
    contents.update(kept)


@contextlib.contextmanager
def _undisturbed() -> Iterator[None]:
    "A Ctrl-C meanwhile is raised at the end: an impatient second one would leave the learner half put back."
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    asked = []
    before = signal.signal(signal.SIGINT, lambda number, frame: asked.append(number))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
    if asked:
        raise KeyboardInterrupt


# The seconds of an epoch


def seconds_per_epoch(learn: Learner, batches: int = 8, at_most: float = 30.0) -> float:
    "Seconds that an epoch of `learn.fit` will take: the sum of `epoch_seconds`."
    return sum(epoch_seconds(learn, batches, at_most))


def epoch_seconds(learn: Learner, batches: int = 8, at_most: float = 30.0) -> tuple[float, float]:
    """Seconds that training and validation of an epoch will take, by a few mini-batches that are done and then undone.

    Counted are the wait for photos, copying, forward, backward, optimiser steps, what the learner's callbacks do in
    training, and validation. Timed are at least `batches` mini-batches (rounded up to whole optimiser steps) after
    those that are left out: the first step, in which buffers are made and the GPU's libraries loaded, and as many as
    the workers read ahead meanwhile. A pass not much longer than that is timed whole, in a second epoch, for which the
    workers are there already; so this takes two short epochs at most. A longer pass includes their start.
    If steps are slow, a pass is cut as soon as it has taken `at_most` seconds and timed one step after the first.

    Not counted: what `toolkit.train.fit` writes after an epoch, and photos that are slower to read because the system
    has not read them before. On a machine that others use too it is as true as their load is steady.
    """
    if batches < 1:
        raise ValueError(f"cannot time {batches} mini-batches: give 1 or more")
    clock = EpochClock(batches, at_most)
    with unchanged(learn), learn.no_logging(), learn.no_bar():
        if hasattr(learn, "grow"):
            learn.grow.sizes = learn.grow.sizes[-1:]  # both epochs on squares of one size, the largest
        learn.fit(2, cbs=clock)
    return clock.seconds["train"], clock.seconds["valid"]


class EpochClock(Callback):
    "The `seconds` of an epoch's training and validation, after a fit that it cuts short."

    order = 100  # after all others, so that what they do is timed too

    def __init__(self, batches: int, at_most: float):
        self.batches, self.at_most = batches, at_most
        self.seconds: dict[str, float] = {}

    def before_train(self) -> None:
        self._begin(self.accumulate.n if hasattr(self.learn, "accumulate") else 1)

    def before_validate(self) -> None:
        self._begin(1)

    def _begin(self, group: int) -> None:
        ahead = 2 * self.dl.fake_l.num_workers  # torch's prefetch_factor
        self.group, self.ready = group, group * -(-(ahead + 1) // group)
        self.enough = self.ready + group * -(-self.batches // group)
        self.done, self.waited, self.first, self.begun = 0, 0.0, None, perf_counter()
        self.ended = self.begun

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
        slow = perf_counter() - self.begun > self.at_most and done > self.group
        if slow or done == self.enough:
            self._end(done)
        if done in (self.group, self.ready):
            self.since, self.waited = (done, self._now()), 0.0

    def _end(self, done: int) -> None:
        "The whole pass by the batches since `since`: their mean, and what the first one was waited for beyond that."
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
        "If the pass came to its end, its own seconds are the answer."
        whole = self.done >= len(self.dl)
        if self._part == "train":
            self.trained_whole = whole
        if whole:
            self.seconds[self._part] = self._now() - self.begun

    @property
    def _part(self) -> str:
        return "train" if self.training else "valid"

    def _now(self) -> float:
        "The time when the device has done what it was given."
        if self.dls.device.type == "cuda":
            torch.cuda.synchronize(self.dls.device)
        return perf_counter()
