"""A timm model with a fresh head and its weights: from the hub, from a file, or random."""

import difflib
from collections.abc import Collection
from pathlib import Path

import timm
import torch
from torch import nn

from toolkit.errors import reason_of
from toolkit.models.pretrained import head_tensors, hub_options, hub_origin, load_body
from toolkit.options import Options


def make_model(options: Options, classes: Collection[str], dropout: float = 0.0) -> nn.Module:
    "Return the model that --arch, --weights and --image_size name, with a new head for `classes`; see `create_model`."
    return create_model(options.arch, len(classes), options.weights, dropout, options.image_size)


def create_model(
    arch: str, classes: int, weights: str = "imagenet", dropout: float = 0.0, image_size: int = 224
) -> nn.Module:
    """Return timm's `arch` with a new head, Dropout(dropout) then Linear(classes): float [batch, 3, image_size,
    image_size] -> logits [batch, classes]. The linear layer is drawn as torch draws its nn.Linear, for every network.

    weights: `imagenet` (timm's own for that name, from the hub or its cache), `none` (random), or a state dict in a
    .pth, .pt or .safetensors file, whose classifier is left out and whose other tensors must all fit. Nothing is
    unpickled.
    The model's `origin` records its weights: {"source", "loaded" (number of tensors), "left_out" (their names),
    "license" (None if it is not known), "made_for" (preparation of the photos they were trained on: mean, std,
    input_size, crop_pct, interpolation; None for random weights), "assumed" (True if these are timm's defaults of the
    architecture)}.

    Raises ValueError for an unknown name, a network without a classifier, weights that do not fit or a size that the
    network does not take, FileNotFoundError for a missing file, ConnectionError if the hub is out of reach.
    """
    _check_name(arch)
    if weights == "imagenet":
        model = _create(arch, classes, dropout, image_size, **hub_options(arch))
        model.origin = hub_origin(arch, model)
    else:
        model = _create(arch, classes, dropout, image_size)
        model.origin = {"source": "none", "loaded": 0, "left_out": [], "license": None, "made_for": None}
        if weights != "none":
            load_body(model, Path(weights))
    check_size(model, image_size, "image_size")
    return model


@torch.no_grad()
def check_size(model: nn.Module, size: int, option: str) -> None:
    """Raises ValueError, naming the option, if a pass of `model` over a square of `size` pixels fails.

    Only the pass can tell: layers may leave nothing of a small square, patches or windows may not divide it.
    """
    training = model.training
    try:
        model.eval()(torch.zeros(1, 3, size, size))
    except Exception as error:  # a network may raise anything if its layers are left with too little
        usual = model.pretrained_cfg["input_size"][-1]
        reason = f" ({reason_of(error)})" if str(error) else ""
        raise ValueError(
            f"--{option} {size}: {type(model).__name__} takes no photos of that size{reason}; {usual} is what it was "
            "made for"
        ) from error
    finally:
        model.train(training)


def _check_name(arch: str) -> None:
    if arch == "auto":
        raise ValueError("--arch auto is chosen by a recipe's command; give the name of a timm network here")
    if timm.is_model(arch):
        tag = arch.partition(".")[2]
        tags = [name.partition(".")[2] for name in timm.list_pretrained(arch.partition(".")[0] + ".*")]
        if not tag or tag in tags:
            return
        raise ValueError(
            f"timm's {arch.partition('.')[0]} has no weights tagged {tag!r}: choose one of {', '.join(tags)}"
        )
    names = timm.list_models() + timm.list_models(pretrained=True)
    near = difflib.get_close_matches(arch, names, n=5, cutoff=0.5)
    hint = f"nearest: {', '.join(near)}" if near else "see timm.list_models()"
    raise ValueError(f"timm {timm.__version__} has no model {arch!r}; {hint}")


def _create(arch: str, classes: int, dropout: float, image_size: int, **options: object) -> nn.Module:
    config = timm.get_pretrained_cfg(arch)
    if config is not None and config.fixed_input_size:  # transformers fix their number of patches when they are built
        options["img_size"] = image_size
    try:
        model = timm.create_model(arch, num_classes=classes, drop_rate=dropout, **options)
    except (AssertionError, TypeError, ValueError) as error:
        raise ValueError(f"timm can't build {arch} for {classes} classes at {image_size} pixels: {error}") from error
    if not head_tensors(model):
        raise ValueError(f"timm's {arch} has no classifier to train: give another --arch")
    _draw_head(model)
    return model


def _draw_head(model: nn.Module) -> None:
    """Draw the classifier anew as torch draws an nn.Linear: uniform, with a deviation of 1 / sqrt(3 * features).

    timm draws differently for each family. A MobileNet's deviation is 0.13 for 20 classes and 0.41 for 2, and its first
    loss is twice that of guessing; a transformer's head is zero.
    """
    for layer in sorted({name.rpartition(".")[0] for name in head_tensors(model)}):
        model.get_submodule(layer).reset_parameters()


def normalization_of(model: nn.Module) -> dict[str, tuple[float, ...]]:
    """Return the mean and std of the photos that the model's weights were trained on, for
    `toolkit.data.preprocess.for_size`; an empty dict for random weights.
    """
    made_for = model.origin["made_for"]
    return {name: tuple(made_for[name]) for name in ("mean", "std")} if made_for else {}
