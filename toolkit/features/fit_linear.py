"""A linear classifier of features, fitted by L-BFGS."""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

STEPS = 200  # of L-BFGS at most
HISTORY = 2**30  # bytes that L-BFGS may remember of earlier steps
STEPS_TO_COMPARE = 30
"Enough for fits that rapid only compares: on five data sets more changed no choice (LOG.md, 28 November 2026)."


def fit_linear(
    features: Tensor,
    labels: Tensor,
    loss: Callable[[Tensor, Tensor], Tensor],
    l2: float,
    start: tuple[Tensor, Tensor],
    steps: int = STEPS,
) -> tuple[Tensor, Tensor, float]:
    """Fit a linear classifier that minimises loss(logits, labels) + l2 / 2 * sum(weight ** 2), by L-BFGS from `start`.

    features: float32 [photos, features]; labels: int64 [photos]. start: weight [classes, features] and bias
    [classes] to begin with. steps: at most, of L-BFGS.
    Returns weight, bias, and the loss without the penalty.
    """
    weight, bias = (part.clone().requires_grad_() for part in start)
    kept = max(10, min(100, HISTORY // (2 * weight.nbytes)))  # of two vectors a step; 100 is torch's default
    search = torch.optim.LBFGS([weight, bias], max_iter=steps, history_size=kept, line_search_fn="strong_wolfe")

    def penalised() -> Tensor:
        search.zero_grad()
        total = loss(features @ weight.T + bias, labels) + l2 / 2 * weight.square().sum()
        total.backward()
        return total

    search.step(penalised)
    weight, bias = weight.detach(), bias.detach()
    return weight, bias, float(loss(features @ weight.T + bias, labels))


def classifier(
    features: np.ndarray, labels: np.ndarray, classes: int, l2: float, steps: int = STEPS
) -> Callable[[np.ndarray], np.ndarray]:
    """Fit a linear classifier for cross-entropy, and return its function from features to log-probabilities.

    features: float32 [photos, features]; labels: int64 [photos]. The features' mean becomes 0 and their deviation, of
    all together, 1. The function takes float32 [photos, features] and returns float32 [photos, classes].
    """
    mean, deviation = features.mean(0), max(features.std(), 1e-12)
    inputs, targets = torch.from_numpy((features - mean) / deviation), torch.from_numpy(labels)
    zero = inputs.new_zeros(classes, inputs.shape[1]), inputs.new_zeros(classes)
    weight, bias, _ = fit_linear(inputs, targets, F.cross_entropy, l2, zero, steps)

    def predict(others: np.ndarray) -> np.ndarray:
        logits: Tensor = torch.from_numpy((others - mean) / deviation) @ weight.T + bias
        return logits.log_softmax(1).numpy()

    return predict
