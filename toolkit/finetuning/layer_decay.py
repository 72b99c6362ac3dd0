"""Layer-wise learning-rate decay: earlier layers of a pretrained network learn slower."""

from collections.abc import Callable
from functools import partial
from typing import Any

import timm.optim
from fastcore.foundation import L
from torch import nn

from toolkit.ranges import check_ranges

STILL = 0.05
"""Layers with a smaller share of the learning rate are frozen: the backward pass then ends before them."""


def layer_groups(decay: float, weight_decay: float = 0.01) -> Callable[[nn.Module], list[dict[str, Any]]]:
    """Return a fastai splitter whose parameter groups have an `lr_scale`, which `OneCycle` and `Schedule` follow.

    It is 1 for the head, and for each layer (or block) before it `decay` times that of the next, down to STILL. Layers
    below STILL are frozen when the optimiser is created. Biases and norms have no weight decay.
    timm defines the layers of each model. Source: https://arxiv.org/abs/2106.08254 (layer-wise decay, A.3),
    timm.optim.param_groups_layer_decay. Raises ValueError for a decay that is not above 0 and at most 1.
    """
    check_ranges({"layer_decay": decay})
    return partial(_groups, decay, weight_decay)


def _groups(decay: float, weight_decay: float, model: nn.Module) -> L:
    kept = model.no_weight_decay() if hasattr(model, "no_weight_decay") else ()
    groups = L(timm.optim.param_groups_layer_decay(model, weight_decay, kept, layer_decay=decay))
    for group in groups:
        for weight in group["params"]:
            weight.requires_grad_(group["lr_scale"] >= STILL)
    return groups.filter(lambda group: group["lr_scale"] >= STILL)


def decay_over(model: nn.Module, first: float) -> float:
    "Return the decay by which the model's first layer learns at `first` times the head's rate."
    layers = len({group["lr_scale"] for group in timm.optim.param_groups_layer_decay(model, layer_decay=0.5)})
    return first ** (1 / (layers - 1))
