"""The losses a recipe can name, in one table: cross-entropy, focal, label smoothing.

Each function takes logits [batch, classes] of any float type and labels int64 [batch], computes in float32 and returns
the mean over the batch (a scalar), or one value an image with reduction="none". `weight` is a factor per class
[classes]; the mean is then over the weights, as in torch's cross_entropy.
"""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def cross_entropy(logits: Tensor, labels: Tensor, weight: Tensor | None = None, reduction: str = "mean") -> Tensor:
    "-log p_t, p_t the softmax probability of the label."
    return F.cross_entropy(logits.float(), labels, weight=weight, reduction=reduction)


def focal(
    logits: Tensor, labels: Tensor, gamma: float = 2.0, weight: Tensor | None = None, reduction: str = "mean"
) -> Tensor:
    """-(1 - p_t)^gamma log p_t (Lin et al. 2017, https://arxiv.org/abs/1708.02002), gamma >= 0; 0 is cross-entropy.

    p_t is the probability of the label itself; class weights multiply the loss and never enter p_t.
    """
    log_p = F.log_softmax(logits.float(), dim=-1)
    log_p_t = log_p.gather(-1, labels.unsqueeze(-1)).squeeze(-1)
    losses = (1 - log_p_t.exp()).clamp(min=0).pow(gamma) * -log_p_t
    factors = torch.ones_like(losses) if weight is None else weight.to(losses)[labels]
    if reduction == "none":
        return factors * losses
    return (factors * losses).sum() / factors.sum()


def smoothing(
    logits: Tensor, labels: Tensor, eps: float = 0.1, weight: Tensor | None = None, reduction: str = "mean"
) -> Tensor:
    """Cross-entropy against (1 - eps) one-hot + eps / classes (Szegedy et al. 2016, https://arxiv.org/abs/1512.00567).

    0 <= eps <= 1; 0 is cross-entropy.
    """
    return F.cross_entropy(logits.float(), labels, weight=weight, reduction=reduction, label_smoothing=eps)


LOSSES: dict[str, Callable[..., Tensor]] = {"ce": cross_entropy, "focal": focal, "smoothing": smoothing}


class ClassificationLoss(nn.Module):
    "One of the functions above, with what fastai asks of a loss: a `reduction` to set, an activation, a decision."

    y_int = True  # labels are indices: fastai's MixUp and CutMix ask for it

    def __init__(self, function: Callable[..., Tensor], weight: Tensor | None = None, reduction: str = "mean"):
        super().__init__()
        self.function, self.reduction = function, reduction
        self.register_buffer("weight", weight)

    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
        return self.function(logits, labels, weight=self.weight, reduction=self.reduction)

    def activation(self, logits: Tensor) -> Tensor:
        "Probabilities float32 [batch, classes]."
        return logits.float().softmax(dim=-1)

    def decodes(self, probabilities: Tensor) -> Tensor:
        "Class indices int64 [batch]."
        return probabilities.argmax(dim=-1)


def make_loss(name: str, weight: Tensor | None = None, **options: float) -> ClassificationLoss:
    "The loss called `name`, with the options its function has. Raises ValueError for a name not in the table."
    if name not in LOSSES:
        raise ValueError(f"unknown loss {name!r}: choose one of {', '.join(LOSSES)}")
    function = partial(LOSSES[name], **options) if options else LOSSES[name]
    return ClassificationLoss(function, weight)
