"""torch's own learning-rate schedulers, stepped by fastai callbacks; each one's `scheduler` has a state to save."""

from collections.abc import Callable
from functools import lru_cache, partial
from typing import Any, Literal

import torch
from fastai.callback.core import Callback
from fastai.callback.schedule import combined_cos
from torch.optim import lr_scheduler
from torch.optim.lr_scheduler import CosineAnnealingLR, LambdaLR, LRScheduler, OneCycleLR, PolynomialLR

ENDS = {CosineAnnealingLR: "T_max", OneCycleLR: "total_steps", PolynomialLR: "total_iters"}
"torch's schedulers that end with the run they were made for, and their attribute for it: a cosine would rise again."

SPANS = ("T_max", "T_0", "total_steps", "total_iters", "step_size", "milestones", "_milestones")
"Attributes of torch's schedulers that say when they change the rate."


class Unfit(ValueError):
    "A schedule that can't go on as it was asked to."


def check_extended(scheduler: LRScheduler, state: dict[str, Any]) -> None:
    """Raises Unfit if a schedule does not follow when its run is given more epochs.

    scheduler: made for the longer run. state: the scheduler's in the run so far, which it would go on with. It does not
    follow if the longer run's scheduler changes the rate at other steps, or if it ends with the run that it was made
    for. A schedule that had passed its end before was meant to.
    """
    parts = zip(getattr(scheduler, "_schedulers", [scheduler]), state.get("_schedulers", [state]), strict=True)
    for part, held in [(scheduler, state), *parts]:  # the parts of a SequentialLR or ChainedScheduler, or itself again
        name = ENDS.get(type(part))
        if not name or held["last_epoch"] > held[name]:
            name = next((span for span in SPANS if held.get(span) != vars(part).get(span)), None)
        if name:
            raise Unfit(
                f"more epochs than this run was begun with, but its {type(part).__name__} ends with "
                f"{name.strip('_')}={held[name]} and would not follow: resume it with as many as before, or begin a "
                "new run; a schedule that can grow is a LambdaLR over Learner.optimizer_steps(), as OneCycle's is"
            )


class Schedule(Callback):
    """Any torch scheduler: `Schedule(lambda optimizer, steps: CosineAnnealingLR(optimizer, T_max=steps))`.

    make: called as each fit begins with torch's optimiser and the number of times that the scheduler will be stepped in
    the whole fit, those of a resumed run included: its optimiser steps or, with every="epoch", its epochs. An epoch
    that is a linear probe does not count.
    Parameter groups with an `lr_scale`, as timm's layer-wise decay makes them, start at that share of the rate.
    A resumed run goes on where its schedule stood. Given more epochs it is refused, unless the schedule is a LambdaLR,
    whose function is asked anew, or does not depend on the number of steps.

    Raises ValueError for another `every`.
    """

    order = 60

    def __init__(
        self,
        make: Callable[[torch.optim.Optimizer, int], LRScheduler],
        every: Literal["step", "epoch"] = "step",
    ):
        if every not in ("step", "epoch"):
            raise ValueError(f"a schedule stepped every {every!r}: choose step or epoch")
        self.make, self.every = make, every

    def before_fit(self) -> None:
        self.run = self.learn.is_plain_fit
        if self.run:
            learn, optimizer = self.learn, self.opt.opt
            for group in optimizer.param_groups:
                group.pop("initial_lr", None)  # torch would keep that of the fit before
                group["lr"] *= group.get("lr_scale", 1.0)
            steps = learn.optimizer_steps() if self.every == "step" else learn.epochs_done + learn.n_epoch
            self.scheduler = self.make(optimizer, max(steps, 1))

    def before_train(self) -> None:
        set_lambda_rates(self.scheduler)

    def after_step(self) -> None:
        if self.every == "step":
            self.scheduler.step()

    def after_epoch(self) -> None:
        if self.every == "epoch" and self.learn.epochs_done + self.epoch >= 0:  # else it was a linear probe
            self.scheduler.step()


def set_lambda_rates(scheduler: LRScheduler) -> None:
    """Set the rates that a LambdaLR's functions give for the steps it has taken.

    The optimiser of a resumed run that was given more epochs still has the shorter schedule's rate.
    """
    if isinstance(scheduler, LambdaLR):
        groups = zip(scheduler.optimizer.param_groups, scheduler.base_lrs, scheduler.lr_lambdas, strict=True)
        for group, peak, factor in groups:
            group["lr"] = peak * factor(scheduler.last_epoch)


class ReduceLROnPlateau(Callback):
    """Multiply the learning rate by `factor` when the validation loss has not improved for more than `patience` epochs.

    The scheduler starts anew with each `fit`, as the learning rate does. fastai's callback of that name does nothing to
    an OptimWrapper (fastai#4046), takes `factor` as a divisor and waits one epoch longer than torch: this class can go
    when fastai's agrees with torch.
    Source: https://pytorch.org/docs/stable/generated/torch.optim.lr_scheduler.ReduceLROnPlateau.html
    """

    name = "plateau"  # its key in last.pt
    order = 60  # after the Recorder, which knows the validation loss

    def __init__(self, factor: float = 0.1, patience: int = 10):
        self.factor, self.patience = factor, patience

    def before_fit(self) -> None:
        self.run = self.learn.is_plain_fit
        if self.run:
            self.scheduler = lr_scheduler.ReduceLROnPlateau(self.opt.opt, factor=self.factor, patience=self.patience)

    def after_epoch(self) -> None:
        loss = self.recorder.loss.value
        if loss is not None:  # `learn.summary` is a fit that validates nothing
            self.scheduler.step(float(loss))


class OneCycle(Callback):
    """Warm up to the learner's learning rate over a quarter of a fit's steps, then anneal to nearly nothing (cosines).

    A resumed run goes on where its schedule stood. Given more epochs, it goes on where the longer schedule would stand,
    because only the number of steps taken is in the scheduler's state. fastai's own one-cycle would begin again.
    Parameter groups with an `lr_scale`, as timm's layer-wise decay makes them, get that share of the learning rate.
    Source: Smith, Topin 2017, https://arxiv.org/abs/1708.07120
    """

    order = 60

    def before_fit(self) -> None:
        self.run = self.learn.is_plain_fit
        if self.run:
            steps = max(self.learn.optimizer_steps(), 1)
            scales = [group.get("lr_scale", 1.0) for group in self.opt.opt.param_groups]
            for group in self.opt.opt.param_groups:
                group.pop("initial_lr", None)  # torch would keep that of the fit before
            self.scheduler = LambdaLR(self.opt.opt, [partial(_scaled, steps, scale) for scale in scales])

    def before_train(self) -> None:
        set_lambda_rates(self.scheduler)

    def after_step(self) -> None:
        self.scheduler.step()


def _scaled(steps: int, scale: float, step: int) -> float:
    return scale * _one_cycle(min(step / steps, 1))


@lru_cache(1)
def _one_cycle(share: float) -> float:
    "The factor of the highest rate at that share of the steps; all parameter groups ask for the same one."
    return combined_cos(0.25, 1 / 25, 1, 1e-5)(share)
