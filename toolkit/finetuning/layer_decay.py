"""Layer-wise learning-rate decay: earlier layers of a pretrained network learn slower, the first ones not at all."""

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import timm.optim
from fastcore.foundation import L
from torch import nn

from toolkit.ranges import check_ranges


def layer_groups(
    decay: float, weight_decay: float = 0.01, frozen: float = 0.0
) -> Callable[[nn.Module], list[dict[str, Any]]]:
    """Return a fastai splitter whose parameter groups have an `lr_scale`, which `OneCycle` and `Schedule` follow.

    It is 1 for the head, and for each layer (or block) before it `decay` times that of the next. Biases and norms have
    no weight decay.
    frozen: share of the layers that are frozen when the optimiser is created, from the first one on, rounded up. The
    backward pass ends before them.
    timm defines the layers of each model. Source: https://arxiv.org/abs/2106.08254 (layer-wise decay, A.3),
    timm.optim.param_groups_layer_decay.

    Raises ValueError for a decay that is not above 0 and at most 1, and for a share that is not from 0 to below 1.
    """
    check_ranges({"layer_decay": decay, "frozen": frozen})
    return partial(_groups, decay, weight_decay, frozen)


def _groups(decay: float, weight_decay: float, frozen: float, model: nn.Module) -> L:
    _freeze(model, frozen)
    kept = model.no_weight_decay() if hasattr(model, "no_weight_decay") else ()
    return L(timm.optim.param_groups_layer_decay(model, weight_decay, kept, layer_decay=decay))


def _freeze(model: nn.Module, share: float) -> None:
    "Freeze the first layers. Those that another splitter froze before are trained again."
    for weight in model.parameters():
        if vars(weight).pop("frozen_by_splitter", False):
            weight.requires_grad_(True)
    layers = _layers(model)
    for weight in sum(layers[: _count(layers, share)], start=[]):
        weight.requires_grad_(False)
        weight.frozen_by_splitter = True


def _count(layers: list, share: float) -> int:
    "Return the number of frozen layers. The head is never one."
    return min(math.ceil(share * len(layers)), len(layers) - 1)


def _layers(model: nn.Module) -> list[list[nn.Parameter]]:
    "Return the parameters of each layer, from the first one to the head; those that can be trained."
    layers: dict[float, list[nn.Parameter]] = {}
    for group in timm.optim.param_groups_layer_decay(model, layer_decay=0.5):
        layers.setdefault(group["lr_scale"], []).extend(group["params"])
    return [layers[scale] for scale in sorted(layers)]


def decay_over(model: nn.Module, first: float, frozen: float) -> float:
    "Return the decay by which the first layer that is not `frozen` learns at `first` times the head's rate."
    layers = _layers(model)
    return first ** (1 / max(len(layers) - _count(layers, frozen) - 1, 1))
