"""The body of a network is frozen, so that its new classifier learns first."""

from fastai.torch_core import norm_bias_params
from torch import nn

from toolkit.models.pretrained import head_tensors


def freeze_body(model: nn.Module) -> None:
    "Freeze all of `model`, one of timm's, but its classifier and its norms, which fastai trains in a frozen body too."
    trained = {id(weight) for weight in norm_bias_params(model, with_bias=False)}
    trained |= {id(model.get_parameter(name)) for name in head_tensors(model)}
    for weight in model.parameters():
        if id(weight) not in trained:
            weight.requires_grad_(False)
