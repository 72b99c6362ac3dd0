"""ReduceLROnPlateau with torch's own semantics, as a fastai callback.

fastai's callback of that name does nothing to an OptimWrapper (fastai#4046), takes `factor` as a divisor and waits one
epoch longer than torch; this one steps torch's scheduler. It can go when that issue is closed and patience agrees.
"""

from fastai.callback.core import Callback
from torch.optim.lr_scheduler import ReduceLROnPlateau


class Plateau(Callback):
    """Multiply the learning rate by `factor` when the validation loss has not improved for more than `patience` epochs.

    The scheduler starts anew with each `fit`, as the learning rate does; `scheduler.state_dict()` is its state.
    Source: https://pytorch.org/docs/stable/generated/torch.optim.lr_scheduler.ReduceLROnPlateau.html
    """

    order = 60  # after the Recorder, which knows the validation loss

    def __init__(self, factor: float = 0.1, patience: int = 10):
        self.factor, self.patience = factor, patience

    def before_fit(self) -> None:
        self.scheduler = ReduceLROnPlateau(self.opt.opt, factor=self.factor, patience=self.patience)

    def after_validate(self) -> None:
        self.scheduler.step(float(self.recorder.loss.value))
