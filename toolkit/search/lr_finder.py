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

LEAST = 1e-3  # of the loss, that it falls by somewhere on the curve; a loss that stays the same wobbles by rounding


def find_lr(learn: Learner, steps: int = 100) -> Curve:
    """The curve of fastai's lr_find over at most `steps` optimiser steps, and the rate its `valley` suggests, in two
    digits. Of accumulated mini-batches there are accordingly more. Layers have their shares of each rate, as
    in training; a head that is to be probed is probed first. No file is left behind.

    Raises ValueError where the loss diverges before there is a curve, or falls at no rate.
    Source: Smith 2015, https://arxiv.org/abs/1506.01186
    """
    mini_batches = _mini_batches(learn, steps)
    probe = learn.callback(LinearProbe)
    if probe and probe.found is not None:
        probe = None
    with tempfile.TemporaryDirectory() as folder, restoring_state(learn), learn.no_bar():
        learn.path = Path(folder)  # where lr_find keeps the weights meanwhile
        ready = probe and (probe.ready or probe.probed())  # it leaves the head probed, as training will find it
        learn.add_cb(LayerRates())
        learn.lr_find(num_it=mini_batches, show_plot=False, suggest_funcs=None)
        lrs, losses = torch.tensor(learn.recorder.lrs), torch.tensor([float(loss) for loss in learn.recorder.losses])
    if probe:
        probe.ready = ready
    begin, end = mini_batches // 10, len(losses) - 5  # as lr_find does for its suggestions
    finite = int(torch.isfinite(losses).cumprod(0).sum())
    lrs, losses = lrs[begin : min(end, finite)], losses[begin : min(end, finite)]
    if len(losses) < 2 or losses.min() > (1 - LEAST) * losses[0]:
        trouble = "diverges before there is a curve" if len(losses) < 2 else "falls at no rate"
        raise ValueError(f"--lr auto: the loss {trouble} ({mini_batches} mini-batches, from 1e-7 up): give a number")
    chosen = valley(lrs, losses, mini_batches)[0]
    return Curve(lrs.tolist(), losses.tolist(), float(f"{chosen:.1e}"))


class LayerRates(Callback):
    "lr_find sets one rate for all parameter groups; those that have an `lr_scale` get that share, as from OneCycle."

    order = ParamScheduler.order + 1  # after it has set the rate, which the Recorder takes from the last group

    def before_batch(self) -> None:
        for group in self.opt.opt.param_groups:
            group["lr"] *= group.get("lr_scale", 1.0)


def _mini_batches(learn: Learner, steps: int) -> int:
    "As many as make up `steps` optimiser steps, the last of each epoch perhaps of fewer."
    return round(steps * len(learn.dls.train) / learn.optimizer_steps(epochs=1))
