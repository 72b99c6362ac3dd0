"""Training that leaves no trace: a learner whose state is restored afterwards."""

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from fastai.callback.core import Callback
from fastai.learner import Metric
from fastai.optimizer import _BaseOptimizer
from fastcore.foundation import L
from torch import Tensor, nn

from toolkit.finetuning.linear_probe import LinearProbe
from toolkit.finetuning.progressive_resizing import ProgressiveResizing
from toolkit.learner.learner import Learner
from toolkit.learner.random_state import random_state, set_random_state


@contextlib.contextmanager
def restoring_state(learn: Learner) -> Iterator[Learner]:
    """`learn` may be trained or changed inside; afterwards, also after an error or Ctrl-C it is what it was to the bit.

    Restored are weights, buffers, gradients, frozen layers and each module's mode; the optimiser (None if there was
    none) with its state and learning rates; the random number generators; order, draws, batch size and workers of the
    data loaders; the learner's own attributes and its callbacks, with the tensors, lists, metrics, schedulers and
    averaged models that these hold. Objects keep their identity. The copies are in the host's memory.
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
        _keep_attributes(loader.sampler_state, undo)
    try:
        yield learn
    finally:
        with _undisturbed():
            for put_back in undo:
                put_back()


@contextlib.contextmanager
def trying_a_fit(learn: Learner) -> Iterator[Learner]:
    """`restoring_state` for fits that tell the time or the memory of training: each epoch inside trains, on the largest
    squares. A fit of a run may begin with a linear probe and with smaller squares, which say nothing of later epochs.
    """
    with restoring_state(learn):
        learn.remove_cbs([callback for callback in learn.cbs if isinstance(callback, LinearProbe)])
        if resizing := learn.callback(ProgressiveResizing):
            resizing.sizes = [max(resizing.sizes)]
        yield learn


def _keep(value: Any, undo: list[Callable[[], object]], seen: set[int]) -> None:
    "Add to `undo` what restores `value`, if training may change it, and all that it holds."
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
        for tensors in (module._parameters, module._buffers):  # the dicts, because a layer's weight may be replaced
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
    "Delay a Ctrl-C to the end of the block: a second one would leave the learner half restored."
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
