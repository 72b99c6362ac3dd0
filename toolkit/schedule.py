"""torch's own learning-rate schedulers, stepped by fastai callbacks; each one's `scheduler` has a state to save."""

from fastai.callback.core import Callback
from fastai.callback.schedule import combined_cos
from torch.optim.lr_scheduler import LambdaLR, ReduceLROnPlateau

OTHERS = ("lr_finder", "param_scheduler", "gather_preds")  # callbacks of lr_find, fit_one_cycle and the like, get_preds


def _is_plain_fit(callback: Callback) -> bool:
    "Whether `learn.fit` begins: fastai announces predictions and lr_find as fits too, and fit_one_cycle has its own."
    return callback.opt is not None and not any(hasattr(callback.learn, name) for name in OTHERS)


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
        self.run = _is_plain_fit(self)
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
    Source: Smith, Topin 2017, https://arxiv.org/abs/1708.07120
    """

    order = 60

    def before_fit(self) -> None:
        self.run = _is_plain_fit(self)
        if self.run:
            done = self.checkpoint.finished if hasattr(self.learn, "checkpoint") else 0
            accum = self.accumulate.n if hasattr(self.learn, "accumulate") else 1
            steps = (self.n_epoch + done) * -(-len(self.dls.train) // accum)
            shape = combined_cos(0.25, 1 / 25, 1, 1e-5)
            self.factor = lambda step: shape(min(step / steps, 1))
            self.scheduler = LambdaLR(self.opt.opt, self.factor)

    def before_train(self) -> None:
        "Where a resumed run was given more epochs, its optimiser still has the shorter schedule's rate."
        for group, peak in zip(self.opt.opt.param_groups, self.scheduler.base_lrs, strict=True):
            group["lr"] = peak * self.factor(self.scheduler.last_epoch)

    def after_step(self) -> None:
        self.scheduler.step()
