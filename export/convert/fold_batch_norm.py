"""Batch norms folded into the convolutions before them, before the graph is made.

The exporter folds them too, at its end. Until then each costs it 0.07 s. The graph has the same nodes either way.
"""

import copy
from types import MethodType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor, nn

TOLERANCE = 1e-4  # of the largest logit: more is no rounding


def folded(model: "nn.Module", size: int) -> "nn.Module":
    """Return a copy of `model` that computes the same without batch norms behind convolutions, or `model` itself.

    model: in evaluation mode, float [batch, 3, size, size] -> logits. Noise goes through both. If the logits differ by
    more than rounding, as they do if a convolution's output goes elsewhere too or a layer is called twice, `model` is
    returned.
    """
    import torch
    from torch.nn.utils.fusion import fuse_conv_bn_weights

    copied = copy.deepcopy(model)
    noise = torch.randn(1, 3, size, size, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode(False), torch.no_grad():
        pairs, logits = _pairs(copied, noise)
        for conv, norm in pairs:
            affine = norm.running_mean, norm.running_var, norm.eps, norm.weight, norm.bias
            conv.weight, conv.bias = fuse_conv_bn_weights(conv.weight, conv.bias, *affine)
            norm.forward = MethodType(_after_norm, norm)
        same = pairs and _differ(copied(noise), logits) <= TOLERANCE
    return copied if same else model


def _differ(ours: "Tensor", theirs: "Tensor") -> float:
    return float((ours - theirs).abs().max() / theirs.abs().max().clamp_min(1e-12))


def _after_norm(norm: "nn.BatchNorm2d", x: "Tensor") -> "Tensor":
    "Compute the rest of timm's BatchNormAct2d; torch's BatchNorm2d has none."
    return norm.act(norm.drop(x)) if hasattr(norm, "act") else x


def _pairs(model: "nn.Module", images: "Tensor") -> tuple[list[tuple["nn.Conv2d", "nn.BatchNorm2d"]], "Tensor"]:
    "Each convolution whose output is the input of a batch norm, with that. And the logits."
    from timm.layers import BatchNormAct2d, Conv2dSame
    from torch import nn

    outputs, pairs = {}, []

    def watch(module: nn.Module, given: tuple, output: "Tensor") -> None:
        if type(module) in (nn.Conv2d, Conv2dSame):  # no others: some change their weights when they are called
            outputs[id(output)] = module, output  # the output is kept, so that no other has its id
        elif type(module) in (nn.BatchNorm2d, BatchNormAct2d) and module.running_mean is not None:
            pairs.extend((outputs[id(each)][0], module) for each in given if id(each) in outputs)

    hooks = [module.register_forward_hook(watch) for module in model.modules()]
    logits = model(images)
    for hook in hooks:
        hook.remove()
    return pairs, logits
