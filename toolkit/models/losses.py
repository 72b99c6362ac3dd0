"""The losses a recipe can name, in one table: cross-entropy, focal, label smoothing; and class weights for them.

Each function takes logits [batch, classes] of any float type and labels int64 [batch], computes in float32 and returns
the mean over the batch (a scalar), or one value an image with reduction="none". `weight` [classes], each above 0, has a
factor for each class: w_y multiplies the loss of an image of class y. The mean is sum(w_y * loss) / sum(w_y), not a
division by the number of images, as torch defines it for all its losses: equal weights change nothing. The validation
loss is weighted too, and a plateau schedule follows it.
Source: https://docs.pytorch.org/docs/stable/generated/torch.nn.CrossEntropyLoss.html
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from toolkit.options import Options
from toolkit.ranges import check_ranges

TINY = torch.finfo(torch.float32).tiny


def cross_entropy(logits: Tensor, labels: Tensor, weight: Tensor | None = None, reduction: str = "mean") -> Tensor:
    """Return -log p_t, where p_t is the softmax probability of the label; >= 0. This is torch's own.

    Source: https://docs.pytorch.org/docs/stable/generated/torch.nn.CrossEntropyLoss.html
    """
    return F.cross_entropy(logits.float(), labels, weight=weight, reduction=reduction)


def focal(
    logits: Tensor, labels: Tensor, gamma: float = 2.0, weight: Tensor | None = None, reduction: str = "mean"
) -> Tensor:
    """Return -alpha_t (1 - p_t)^gamma log p_t; >= 0. gamma >= 0, the paper tries 0 to 5; 0 is cross-entropy.

    `weight` is the paper's alpha. p_t is the probability of the label itself, without its weight (fastai's FocalLoss
    takes p_t from the weighted loss). The mean is over the weights; the paper divides by the number of its anchors with
    an object.
    Source: Lin et al. 2017, https://arxiv.org/abs/1708.02002, equation 5
    """
    log_p = F.log_softmax(logits.float(), dim=-1)
    log_p_t = log_p.gather(-1, labels.unsqueeze(-1)).squeeze(-1)
    rest = (1 - log_p_t.exp()).clamp(min=TINY)  # at 0 a gamma below 1 would have an infinite gradient
    losses = rest.pow(gamma) * -log_p_t
    factors = torch.ones_like(losses) if weight is None else weight.to(losses)[labels]
    if reduction == "none":
        return factors * losses
    return (factors * losses).sum() / factors.sum()


def smoothing(
    logits: Tensor, labels: Tensor, smoothing: float = 0.1, weight: Tensor | None = None, reduction: str = "mean"
) -> Tensor:
    """Return -sum_c q_c log p_c with targets q = (1 - smoothing) one-hot + smoothing / classes; > 0 if smoothing is.

    0 <= smoothing < 1, 0.1 in the paper; 0 is cross-entropy. This is torch's own: its `weight` multiplies each term of
    the sum by the weight of that term's class, w_c, and the mean is over the labels' weights all the same.
    Source: Szegedy et al. 2016, https://arxiv.org/abs/1512.00567, section 7
    """
    return F.cross_entropy(logits.float(), labels, weight=weight, reduction=reduction, label_smoothing=smoothing)


LOSSES: dict[str, Callable[..., Tensor]] = {"ce": cross_entropy, "focal": focal, "smoothing": smoothing}
CLASS_WEIGHTS = ["none", "balanced", "effective"]
BETA = 0.999  # of the four that Cui et al. try; the limit 1 is "balanced", 0 is "none"


def weights_by_class(kind: str, counts: dict[str, int], sampler: str = "shuffle") -> Tensor | None:
    """Return a weight for each class, float32 [classes] in the order of `counts`; None for "none".

    counts: training photos of each class.
    balanced:  photos / (classes * count), so that classes count alike; the mean over photos is 1.
               Source: https://scikit-learn.org/stable/modules/generated/sklearn.utils.class_weight.compute_class_weight
    effective: 1 / effective number of photos, (1 - BETA) / (1 - BETA^count), scaled to a mean over classes of 1: nearly
               balanced if classes have tens of photos, nearly none if they have thousands.
               Source: Cui et al. 2019, https://arxiv.org/abs/1901.05555, proposition 1 (scaled as in section 4)
    sampler: of the training photos; "balanced" makes rare classes count more already.
    Raises ValueError for another kind, for a class without photos, and for a sampler that balances classes too.
    """
    if kind not in CLASS_WEIGHTS:
        raise ValueError(f"unknown --class_weights {kind!r}: choose one of {', '.join(CLASS_WEIGHTS)}")
    if kind == "none":
        return None
    if sampler == "balanced":
        raise ValueError(f"--class_weights {kind} with --sampler balanced: rare classes would count twice; give one")
    if empty := [name for name, count in counts.items() if count < 1]:
        raise ValueError(f"--class_weights {kind}: class {empty[0]} has no photo to train on; give it some, or none")
    photos = torch.tensor(list(counts.values()), dtype=torch.float64)
    if kind == "balanced":
        return (photos.sum() / (len(photos) * photos)).float()
    weights = (1 - BETA) / (1 - BETA**photos)
    return (weights / weights.mean()).float()


class ClassificationLoss(nn.Module):
    "One of the functions above with the interface that fastai asks of a loss: reduction, activation, decodes."

    y_int = True  # labels are indices: fastai's MixUp and CutMix ask for it

    def __init__(self, function: Callable[..., Tensor], weight: Tensor | None, options: dict[str, float]):
        super().__init__()
        self.function, self.options, self.reduction = function, options, "mean"
        self.register_buffer("weight", weight)

    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
        return self.function(logits, labels, weight=self.weight, reduction=self.reduction, **self.options)

    def activation(self, logits: Tensor) -> Tensor:
        "Probabilities float32 [batch, classes]."
        return logits.float().softmax(dim=-1)

    def decodes(self, probabilities: Tensor) -> Tensor:
        "Class indices int64 [batch]."
        return probabilities.argmax(dim=-1)


def create_loss(
    name: str, weight: Tensor | None = None, gamma: float | None = None, smoothing: float | None = None
) -> ClassificationLoss:
    """Return the loss called `name`. Its `options` hold the values used: None is gamma 2 and smoothing 0.1.

    Raises ValueError for a name not in the table, a value out of range, and an option that belongs to another loss.
    """
    if name not in LOSSES:
        raise ValueError(f"unknown loss {name!r}: choose one of {', '.join(LOSSES)}")
    for option, value, owner in (("gamma", gamma, "focal"), ("smoothing", smoothing, "smoothing")):
        if value is not None and name != owner:
            raise ValueError(
                f"--{option} {value} with --loss {name}: only {owner} has one; give --loss {owner}, or leave it out"
            )
    check_ranges({"gamma": gamma, "smoothing": smoothing})
    options = {
        "focal": {"gamma": 2.0 if gamma is None else gamma},
        "smoothing": {"smoothing": 0.1 if smoothing is None else smoothing},
    }
    return ClassificationLoss(LOSSES[name], weight, options.get(name, {}))


def make_loss(options: Options, counts: dict[str, int]) -> ClassificationLoss:
    """The loss by --loss, --gamma, --smoothing and --class_weights.

    counts: training photos of each class, in index order.

    Raises ValueError as `create_loss` and `weights_by_class` do.
    """
    weight = weights_by_class(options.class_weights, counts, options.sampler)
    return create_loss(options.loss, weight, options.gamma, options.smoothing)
