"""The module that is exported: a model with its normalisation before it and the softmax after it."""

import torch
from torch import Tensor, nn


class Deployable(nn.Module):
    """`model` with normalisation and softmax: uint8 [batch, height, width, 3] RGB -> logits and probabilities, both
    float32 [batch, classes]. mean and std are those of `toolkit.data.preprocess`, for pixels between 0 and 1.

    temperature: divides the logits before the softmax; see `toolkit.evaluation.metrics.temperature`.
    """

    def __init__(self, model: nn.Module, mean: list[float], std: list[float], temperature: float = 1.0):
        super().__init__()
        self.model, self.temperature = model, temperature
        self.register_buffer("mean", 255 * torch.tensor(mean).view(1, 3, 1, 1))
        self.register_buffer("std", 255 * torch.tensor(std).view(1, 3, 1, 1))

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        logits = self.model((image.permute(0, 3, 1, 2).float() - self.mean) / self.std)
        return logits, (logits / self.temperature).softmax(dim=-1)
