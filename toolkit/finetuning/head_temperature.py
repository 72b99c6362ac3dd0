"""Temperature scaling of a probed head before training."""

import torch
from fastai.callback.core import Callback
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from toolkit import ranks
from toolkit.finetuning.linear_probe import LinearProbe, linear_heads
from toolkit.learner.accumulate import batch_weight, is_shared

FACTORS = torch.logspace(-2, 0, 41).tolist()  # of the logits: 0.01 to 1


class HeadTemperature(Callback):
    """Before the first optimiser step after a linear probe, scale the head so that its loss in training is least.

    The probe fits photos that are prepared as for validation. On augmented ones and with dropout its logits can be far
    too large. The gradients of that loss would destroy the body's pretrained features.
    `factor`, the inverse of the temperature, is that of FACTORS with the least loss on the first batch, by one more
    forward pass. Weights and biases of the head are multiplied by it. The probe's own epoch is validated before.
    Source: https://arxiv.org/abs/1706.04599 (temperature scaling), https://arxiv.org/abs/2202.10054 (a head that does
    not suit distorts pretrained features)
    """

    order = 96  # the batch is as the model takes it
    factor: float | None = None

    def before_fit(self) -> None:
        self.run = self.learn.is_plain_fit and self.learn.callback(LinearProbe) is not None

    def before_batch(self) -> None:
        first = self.learn.epochs_done + self.epoch == self.iter == 0  # the probe's epoch is -1
        if self.training and first and self.factor is None:
            self._scale(self.model.module if isinstance(self.model, DistributedDataParallel) else self.model)

    @torch.no_grad()
    def _scale(self, model: nn.Module) -> None:
        logits: Tensor = model.forward(*self.xb)  # not a call: --compile would compile a program for it
        losses = torch.stack([self.learn.loss_func(factor * logits, *self.yb) for factor in FACTORS]).double()
        losses = ranks.add_up(losses * batch_weight(self.learn)) if is_shared(self.learn) else losses
        self.factor = FACTORS[int(losses.argmin())]
        for weight in linear_heads(model).parameters():
            weight.mul_(self.factor)
