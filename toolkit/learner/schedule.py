"""torch's own learning-rate schedulers, stepped by fastai callbacks; each one's `scheduler` has a state to save."""

from functools import lru_cache, partial
from typing import Any

from fastai.callback.core import Callback
from fastai.callback.schedule import combined_cos
from fastai.learner import Learner
from torch.optim.lr_scheduler import (
    CosineAnnealingLR,
    LambdaLR,
    LRScheduler,
    OneCycleLR,
    PolynomialLR,
    ReduceLROnPlateau,
)

OTHERS = ("lr_finder", "param_scheduler", "gather_preds", "validation")
"Callbacks of lr_find, of fit_one_cycle and the like, of get_preds, of our Learner's validate."


def is_plain_fit(callback: Callback) -> bool:
    """Whether `learn.fit` begins: fastai announces predictions, validate and lr_find as fits too, and fit_one_cycle has
    a schedule of its own.
    """
    return callback.opt is not None and not any(hasattr(callback.learn, name) for name in OTHERS)


def epochs_before(learn: Learner) -> int:
    "Epochs that were finished before this fit, by the run that it resumes, less one that was a probe: 0, or -1."
    finished = learn.checkpoint.finished if hasattr(learn, "checkpoint") else 0
    return finished - (learn.probe.epochs if hasattr(learn, "probe") else 0)


def total_steps(learn: Learner) -> int:
    "Optimiser steps of a whole fit as it begins, those that a resumed run has taken included."
    accum = learn.accumulate.n if hasattr(learn, "accumulate") else 1
    return (epochs_before(learn) + learn.n_epoch) * -(-len(learn.dls.train) // accum)


ENDS = {CosineAnnealingLR: "T_max", OneCycleLR: "total_steps", PolynomialLR: "total_iters"}
"torch's schedulers that end with the run they were made for, by what says when: a cosine would rise again after it."


class Unfit(ValueError):
    "A schedule that can't go on as it was asked to."


def check_extended(scheduler: LRScheduler, state: dict[str, Any]) -> None:
    """Raises Unfit if `scheduler`, which `state` is of, ends with the run it was made for: more epochs were asked.

    One that has passed its end before was meant to.
    """
    parts = zip(getattr(scheduler, "_schedulers", [scheduler]), state.get("_schedulers", [state]), strict=True)
    for part, held in parts:  # of a SequentialLR or ChainedScheduler, or the one
        name = ENDS.get(type(part))
        if name and held["last_epoch"] <= held[name]:
            raise Unfit(
                f"more epochs than this run was begun with, but its {type(part).__name__} ends with "
                f"{name}={held[name]} and would not follow: resume it with as many as before, or begin a new run; a "
                "schedule that can grow is a LambdaLR over toolkit.learner.schedule.total_steps, as OneCycle's there is"
            )


class Plateau(Callback):
    """Multiply the learning rate by `factor` when the validation loss has not improved for more than `patience` epochs.

    The scheduler starts anew with each `fit`, as the learning rate does. fastai's callback of that name does nothing to
    an OptimWrapper (fastai#4046), takes `factor` as a divisor and waits one epoch longer than torch: it can go when
    it agrees with torch.
    Source: https://pytorch.org/docs/stable/generated/torch.optim.lr_scheduler.ReduceLROnPlateau.html
    """

    order = 60  # after the Recorder, which knows the validation loss

    def __init__(self, factor: float = 0.1, patience: int = 10):
        self.factor, self.patience = factor, patience

    def before_fit(self) -> None:
        self.run = is_plain_fit(self)
        if self.run:
            self.scheduler = ReduceLROnPlateau(self.opt.opt, factor=self.factor, patience=self.patience)

    def after_epoch(self) -> None:
        loss = self.recorder.loss.value
        if loss is not None:  # `learn.summary` is a fit that validates nothing
            self.scheduler.step(float(loss))


class OneCycle(Callback):
    """Warm up to the learner's learning rate over a quarter of a fit's steps, then anneal to nearly nothing (cosines).

    A resumed run goes on where the schedule stood, or, given more epochs, where that longer schedule would stand: only
    the number of steps taken is in the scheduler's state. fastai's own one-cycle would begin again.
    Parameter groups that have an `lr_scale`, as timm's layer-wise decay makes them, get that share of the rate.
    Source: Smith, Topin 2017, https://arxiv.org/abs/1708.07120
    """

    order = 60

    def before_fit(self) -> None:
        self.run = is_plain_fit(self)
        if self.run:
            steps = max(total_steps(self.learn), 1)
            scales = [group.get("lr_scale", 1.0) for group in self.opt.opt.param_groups]  # timm's, of each layer
            self.factors = [partial(_scaled, steps, scale) for scale in scales]
            for group in self.opt.opt.param_groups:
                group.pop("initial_lr", None)  # torch would keep that of the fit before
            self.scheduler = LambdaLR(self.opt.opt, self.factors)

    def before_train(self) -> None:
        "Where a resumed run was given more epochs, its optimiser still has the shorter schedule's rate."
        groups = zip(self.opt.opt.param_groups, self.scheduler.base_lrs, self.factors, strict=True)
        for group, peak, factor in groups:
            group["lr"] = peak * factor(self.scheduler.last_epoch)

    def after_step(self) -> None:
        self.scheduler.step()


def _scaled(steps: int, scale: float, step: int) -> float:
    return scale * _one_cycle(min(step / steps, 1))


@lru_cache(1)
def _one_cycle(share: float) -> float:
    "The factor of the highest rate at that share of the steps; all parameter groups ask for the same one."
    return combined_cos(0.25, 1 / 25, 1, 1e-5)(share)
