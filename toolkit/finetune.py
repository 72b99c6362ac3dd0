"""Gentle fine-tuning of pretrained weights: earlier layers learn slower, statistics stay, photos grow."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import timm.optim
from fastai.callback.core import Callback
from fastcore.foundation import L
from torch import nn

from toolkit.augment import train_transform
from toolkit.ranges import check_ranges
from toolkit.schedule import epochs_before, is_plain_fit
from toolkit.transforms import Augment

STILL = 0.05
"""Layers whose share of the learning rate is smaller are left as they are: the backward pass then ends before them."""


def layer_groups(decay: float, weight_decay: float = 0.01) -> Callable[[nn.Module], list[dict[str, Any]]]:
    """A fastai splitter whose parameter groups have an `lr_scale`: 1 for the head, for each layer (or block) before it
    `decay` times that of the next, down to STILL. Biases and norms have no weight decay. `toolkit.schedule.OneCycle`
    goes by it. Earlier layers are frozen when the groups are made, as the learner's optimiser is.

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


class FixedStatistics(Callback):
    """Batch norms keep the mean and variance they were pretrained with; their weights and biases are trained.

    A few hundred steps are too few to find new ones in, and the probed head fits the old ones.
    """

    def before_train(self) -> None:
        for layer in self.model.modules():
            if isinstance(layer, nn.modules.batchnorm._BatchNorm):
                layer.eval()


class Grow(Callback):
    """Training squares of sizes[0] pixels in a fit's first epochs, of sizes[-1] in its last, equally many of each.

    Smaller squares train faster; validation stays as it is. Source: https://arxiv.org/abs/2104.00298 (progressive
    learning), https://arxiv.org/abs/1906.06423 (why training may be smaller than testing).
    """

    def __init__(self, sizes: Sequence[int]):
        self.sizes = list(sizes)
        check_ranges({"train_sizes": self.sizes})

    def before_fit(self) -> None:
        self.run = is_plain_fit(self)
        if not self.run:
            return
        fixed = self.dls.preprocess["crop"]
        if self.model.pretrained_cfg["fixed_input_size"] and set(self.sizes) != {fixed}:
            sizes = " ".join(map(str, self.sizes))
            raise ValueError(f"--train_sizes {sizes}: {type(self.model).__name__} takes no other than {fixed} pixels")
        self.before, self.size = epochs_before(self.learn), None
        self.epochs = self.before + self.n_epoch
        self._grow(0)

    def before_train(self) -> None:
        self._grow(self.epoch)

    def _grow(self, epoch: int) -> None:
        "Train on the squares of that epoch of the fit. Those of the same size stay, for which the workers stay too."
        place = max(self.before + epoch, 0) / max(self.epochs, 1)  # a probe alone is an epoch of none
        size = self.sizes[int(place * len(self.sizes))]
        if size != self.size:
            self.size = size
            augment = next(step for step in self.dls.train.after_item if isinstance(step, Augment))
            augment.transform = train_transform(size, **self.dls.augment)
