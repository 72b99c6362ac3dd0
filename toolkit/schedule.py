"""torch's own learning-rate schedulers, stepped by fastai callbacks; each one's `scheduler` has a state to save."""

from fastai.callback.core import Callback
from torch.optim.lr_scheduler import OneCycleLR, ReduceLROnPlateau


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
        self.scheduler = ReduceLROnPlateau(self.opt.opt, factor=self.factor, patience=self.patience)

    def after_validate(self) -> None:
        self.scheduler.step(float(self.recorder.loss.value))


class OneCycle(Callback):
    """Warm up to the learner's learning rate and anneal to nearly nothing over the epochs of a fit, step by step.

    A resumed run goes on where the schedule stood: its first epochs count.
    Source: https://pytorch.org/docs/stable/generated/torch.optim.lr_scheduler.OneCycleLR.html
    """

    order = 60

    def before_fit(self) -> None:
        done = self.checkpoint.finished if hasattr(self.learn, "checkpoint") else 0
        accum = self.accumulate.n if hasattr(self.learn, "accumulate") else 1
        steps = (self.n_epoch + done) * -(-len(self.dls.train) // accum)
        peak = [group["lr"] for group in self.opt.opt.param_groups]
        self.scheduler = OneCycleLR(self.opt.opt, peak, total_steps=steps + 1, pct_start=0.25)

    def after_step(self) -> None:
        self.scheduler.step()
