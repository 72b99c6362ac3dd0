"""`--lr auto`: fastai's learning-rate finder on any learner."""

import tempfile
from pathlib import Path

import torch
from fastai.callback.core import Callback
from fastai.callback.schedule import ParamScheduler, valley

from toolkit.evaluation.results import Curve
from toolkit.finetuning.linear_probe import LinearProbe
from toolkit.learner.learner import Learner
from toolkit.search.snapshot import restoring_state

LEAST = 1e-3  # share of the loss that it must fall by; a constant loss wobbles by rounding


def find_lr(learn: Learner, steps: int = 100) -> Curve:
    """Return the curve of fastai's lr_find over at most `steps` optimiser steps, with the learning rate that its
    `valley` suggests, rounded to two digits.

    Accumulated gradients take more batches accordingly. Layers have their shares of each rate, as in training;
    if the fit begins with a linear probe, the head is probed first. No file is left behind.

    Raises ValueError if the loss diverges before there is a curve, or falls at no rate.
    Source: Smith 2015, https://arxiv.org/abs/1506.01186
    """
    batches = _batches(learn, steps)
    probe = learn.callback(LinearProbe)
    if probe and probe.found is not None:
        probe = None
    with tempfile.TemporaryDirectory() as folder, restoring_state(learn), learn.no_bar():
        learn.path = Path(folder)  # lr_find saves the weights in it meanwhile
        ready = probe and (probe.ready or probe.probed())  # the head is probed now, as in training
        learn.add_cb(LayerRates())
        learn.lr_find(num_it=batches, show_plot=False, suggest_funcs=None)
        lrs, losses = torch.tensor(learn.recorder.lrs), torch.tensor([float(loss) for loss in learn.recorder.losses])
    if probe:
        probe.ready = ready
    begin, end = batches // 10, len(losses) - 5  # as lr_find does for its suggestions
    finite = int(torch.isfinite(losses).cumprod(0).sum())
    lrs, losses = lrs[begin : min(end, finite)], losses[begin : min(end, finite)]
    if len(losses) < 2 or losses.min() > (1 - LEAST) * losses[0]:
        trouble = "diverges before there is a curve" if len(losses) < 2 else "falls at no rate"
        raise ValueError(f"--lr auto: the loss {trouble} ({batches} batches, from 1e-7 up): give a number")
    chosen = valley(lrs, losses, batches)[0]
    return Curve(lrs.tolist(), losses.tolist(), float(f"{chosen:.1e}"))


class LayerRates(Callback):
    "Gives parameter groups with an `lr_scale` that share of lr_find's rate, as OneCycle does."

    order = ParamScheduler.order + 1  # after it has set the rate, which the Recorder takes from the last group

    def before_batch(self) -> None:
        for group in self.opt.opt.param_groups:
            group["lr"] *= group.get("lr_scale", 1.0)


def _batches(learn: Learner, steps: int) -> int:
    "The number of batches of `steps` optimiser steps; the last step of each epoch may have fewer."
    return round(steps * len(learn.dls.train) / learn.optimizer_steps(epochs=1))
