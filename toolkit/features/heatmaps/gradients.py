"""Gradients of a network's logits by the outputs of its layers."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial

import torch
from timm.layers import LayerNorm, LayerNorm2d, LayerNorm2dFp32, LayerNormFp32
from torch import Tensor, nn

NORMS = {nn.LayerNorm: None, LayerNorm: None, LayerNormFp32: None, LayerNorm2d: (1,), LayerNorm2dFp32: (1,)}
"The kinds of layer norms, and the axes that they normalise; None for the last ones."


Outputs = dict[str, Tensor]
"The output of each watched layer, by its name."


@contextmanager
def differentiable(model: nn.Module) -> Iterator[None]:
    "Inside, the model is in evaluation mode and its weights ask for no gradient, so little is kept for one."
    training, wanted = model.training, [weight for weight in model.parameters() if weight.requires_grad]
    model.eval().requires_grad_(False)
    try:
        with torch.enable_grad():
            yield
    finally:
        for weight in wanted:
            weight.requires_grad_(True)
        model.train(training)


@contextmanager
def constant_scales(model: nn.Module) -> Iterator[None]:
    """Inside, gradients take the scale that a layer norm multiplies by as constant, as batch norm's is in evaluation.

    Else the gradient of a logit is orthogonal to what is normalised: it vanishes where the network is sure of itself.
    Source: the LN-rule of https://proceedings.mlr.press/v162/ali22a.html
    """
    with ExitStack() as hooks:
        for layer in model.modules():
            if type(layer) in NORMS:
                hooks.enter_context(layer.register_forward_hook(_with_constant_scale))
        yield


def _with_constant_scale(layer: nn.LayerNorm, inputs: tuple[Tensor], output: Tensor) -> Tensor:
    "The output of a layer norm, to the bit, with the gradient of (input - mean) * scale * weight for a constant scale."
    if not inputs[0].requires_grad:
        return output
    axes = NORMS[type(layer)] or tuple(range(-len(layer.normalized_shape), 0))
    centred = inputs[0] - inputs[0].mean(axes, keepdim=True)
    scale = (centred.detach().square().mean(axes, keepdim=True) + layer.eps).rsqrt()
    weight = 1 if layer.weight is None else layer.weight.view(-1, 1, 1) if NORMS[type(layer)] else layer.weight
    linear = centred * scale * weight
    return output.detach() + (linear - linear.detach())


@contextmanager
def watched(model: nn.Module, layers: Sequence[str]) -> Iterator[Outputs]:
    "Give the outputs of `layers`, in the order in which the model computes them; gradients can be taken of them."
    outputs: Outputs = {}

    def keep(name: str, _layer: nn.Module, _inputs: object, output: object) -> Tensor | None:
        outputs.pop(name, None)  # a layer that is used again: its last output counts
        if not isinstance(output, Tensor):
            return None
        outputs[name] = output if output.requires_grad else output.detach().requires_grad_()
        return outputs[name].clone()  # the next layer may change its input in place

    with ExitStack() as hooks:
        for name in layers:
            hooks.enter_context(model.get_submodule(name).register_forward_hook(partial(keep, name)))
        yield outputs
