"""Layer-wise learning-rate decay: earlier layers of a pretrained network learn slower."""

from collections.abc import Callable
from functools import partial
from typing import Any

import timm.optim
from fastcore.foundation import L
from torch import nn

from toolkit.ranges import check_ranges

STILL = 0.05
"""Layers whose share of the learning rate is smaller are left as they are: the backward pass then ends before them."""


def layer_groups(decay: float, weight_decay: float = 0.01) -> Callable[[nn.Module], list[dict[str, Any]]]:
    """A fastai splitter whose parameter groups have an `lr_scale`: 1 for the head, for each layer (or block) before it
    `decay` times that of the next, down to STILL. Biases and norms have no weight decay. `OneCycle` goes by
    it. Earlier layers are frozen when the groups are made, as the learner's optimiser is.

    Layers are timm's of that model. Source: https://arxiv.org/abs/2106.08254 (layer-wise decay, A.3),
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
    "The decay with which the model's first layer learns at `first` times the head's rate, however many there are."
    layers = len({group["lr_scale"] for group in timm.optim.param_groups_layer_decay(model, layer_decay=0.5)})
    return first ** (1 / (layers - 1))
