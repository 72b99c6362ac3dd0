"""Batch norm layers that keep their pretrained statistics."""

from fastai.callback.core import Callback
from torch import nn


class FrozenBatchNorm(Callback):
    """Batch norms keep the mean and variance of pretraining; their weights and biases are trained.

    everywhere: False for the batch norms of frozen layers alone, whose weights are not trained.
    A few hundred steps are too few to estimate new statistics, and the probed head was fitted to the old ones.
    """

    def __init__(self, everywhere: bool = True):
        self.everywhere = everywhere

    def before_train(self) -> None:
        for layer in self.model.modules():
            if isinstance(layer, nn.modules.batchnorm._BatchNorm) and (self.everywhere or _is_frozen(layer)):
                layer.eval()


def _is_frozen(layer: nn.Module) -> bool:
    return layer.weight is not None and not layer.weight.requires_grad
