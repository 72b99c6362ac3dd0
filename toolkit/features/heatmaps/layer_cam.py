"""LayerCAM: how much each part of a photo speaks for a class, and what suits transformers instead.

pytorch-grad-cam and captum do not serve: each must be told the layer and the layout of its output for every network,
which is most of the work here, and through layer norms plain gradients point elsewhere (see `constant_scales`).
"""

import numpy as np
import torch
from torch import Tensor, nn

from toolkit.features.heatmaps.gradients import constant_scales, differentiable, watched
from toolkit.features.heatmaps.layers import as_grid, prefix_tokens


def layer_cam(model: nn.Module, images: Tensor, layer: str, classes: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Return the logits, float32 [batch, classes], and heatmaps of the images, float32 [batch, side, side], 0 to 1.

    images: normalised float32 [batch, 3, size, size], on the model's device. layer: see `heatmap_layer`. classes: the
    class to explain of each image, int64 [batch]; None for the predicted ones.
    A heatmap is `evidence` divided by its largest cell; zeros if nothing in the image speaks for the class.
    """
    with differentiable(model), constant_scales(model), watched(model, [layer]) as outputs:
        logits = model(images)
        chosen = logits.argmax(1) if classes is None else classes
        (gradient,) = torch.autograd.grad(logits.gather(1, chosen[:, None]).sum(), outputs[layer])
    prefix = prefix_tokens(model)
    found = evidence(as_grid(outputs[layer].detach(), prefix).float(), as_grid(gradient, prefix).float())
    largest = found.amax((1, 2), keepdim=True)
    return logits.detach().float(), found / largest.where(largest > 0, 1)


def evidence(output: Tensor, gradient: Tensor) -> Tensor:
    """Return how much each cell of a layer's output speaks for a class, [batch, side, side], 0 or more.

    output: A, [batch, channels, side, side]; gradient: dy/dA of the class's logit y.
    If A >= 0, as after a ReLU: LayerCAM, the sum over channels of relu(dy/dA) A, https://doi.org/10.1109/TIP.2021.3089943.
    Else, as in transformers: relu of the sum over channels of dy/dA (A - mean of A over the cells). There a negative A
    may speak for the class, and a part that all cells share speaks for no place.
    """
    if output.min() >= 0:
        return (gradient.relu() * output).sum(1)
    return (gradient * (output - output.mean((2, 3), keepdim=True))).sum(1).relu()


def as_bytes(heatmaps: Tensor) -> np.ndarray:
    "Heatmaps from 0 to 1, [batch, side, side], as uint8."
    return (heatmaps * 255).round().byte().cpu().numpy()
