"""A linear classifier of features, fitted by L-BFGS."""

from collections.abc import Callable

import torch
from torch import Tensor


def fit_linear(
    features: Tensor,
    labels: Tensor,
    loss: Callable[[Tensor, Tensor], Tensor],
    l2: float,
    start: tuple[Tensor, Tensor],
) -> tuple[Tensor, Tensor, float]:
    """Fit a linear classifier that minimises loss(logits, labels) + l2 / 2 * sum(weight ** 2), by L-BFGS from `start`.

    features: float32 [photos, features]; labels: int64 [photos]. start: weight [classes, features] and bias
    [classes] to begin with.
    Returns weight, bias, and the loss without the penalty.
    """
    weight, bias = (part.clone().requires_grad_() for part in start)
    search = torch.optim.LBFGS([weight, bias], max_iter=200, line_search_fn="strong_wolfe")

    def penalised() -> Tensor:
        search.zero_grad()
        total = loss(features @ weight.T + bias, labels) + l2 / 2 * weight.square().sum()
        total.backward()
        return total

    search.step(penalised)
    weight, bias = weight.detach(), bias.detach()
    return weight, bias, float(loss(features @ weight.T + bias, labels))
