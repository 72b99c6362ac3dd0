"""Batch norm layers that keep their pretrained statistics."""

from fastai.callback.core import Callback
from torch import nn


class FrozenBatchNorm(Callback):
    """Batch norms keep the mean and variance of pretraining; their weights and biases are trained.

    A few hundred steps are too few to estimate new statistics, and the probed head was fitted to the old ones.
    """

    def before_train(self) -> None:
        for layer in self.model.modules():
            if isinstance(layer, nn.modules.batchnorm._BatchNorm):
                layer.eval()
