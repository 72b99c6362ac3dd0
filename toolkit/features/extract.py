"""The features of photos: the input of a model's linear classifier."""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from fastai.data.core import Datasets
from fastai.data.transforms import IntToFloatTensor
from torch import Tensor, nn

from toolkit.data.photo_loader import PhotoLoader
from toolkit.data.transforms import (
    SOURCES,
    NormalizeInPlace,
    Photo,
    ReadPhoto,
    ReadReduced,
    ResizeCenterCrop,
    SamplerState,
)
from toolkit.features.duplicates import SIDE
from toolkit.learner.performance import fast_math, whole_batches


def features_and_thumbnails(
    model: nn.Module,
    photos: Sequence[Path],
    preprocess: dict[str, Any],
    device: torch.device | str = "cpu",
    workers: int = 0,
    bs: int = 64,
) -> tuple[np.ndarray, np.ndarray]:
    """Return the input of the model's linear classifier for each photo, float32 [photos, features], and its thumbnail,
    uint8 [photos, SIDE, SIDE], grey.

    model: a timm classifier on `device`; it computes in its own precision, in evaluation mode. preprocess: a dict of
    `toolkit.data.preprocess.preprocessing`; the photos are prepared as those of validation. workers: data-loading
    processes.
    Raises ValueError without photos, for a photo that can't be read, and for a model whose classifier is not one linear
    layer.
    """
    if not len(photos):
        raise ValueError("no photos to compute features of: give one or more")
    linear_heads(model)
    device, thumbnails = torch.device(device), []
    batches = photo_batches(photos, preprocess, device, workers, bs)
    features, _ = head_inputs(model, with_thumbnails(batches, preprocess, thumbnails), device)
    return features.cpu().numpy(), np.concatenate(thumbnails)


def with_thumbnails(batches: Iterable[tuple], preprocess: dict[str, Any], into: list[np.ndarray]) -> Iterator[tuple]:
    """Yield `batches`, and append to `into` the grey thumbnails of each, uint8 [batch, SIDE, SIDE].

    batches: (images normalised by the mean and std of `preprocess`, ...).
    """
    for batch in batches:
        images = batch[0].as_subclass(Tensor)
        mean, std = (images.new_tensor(preprocess[name]).view(3, 1, 1) for name in ("mean", "std"))
        small = F.adaptive_avg_pool2d((images * std + mean).mean(1), SIDE)
        into.append((small * 255).round().clamp(0, 255).byte().cpu().numpy())
        yield batch


def photo_batches(
    photos: Sequence[Path],
    preprocess: dict[str, Any],
    device: torch.device | str = "cpu",
    workers: int = 0,
    bs: int = 64,
) -> PhotoLoader:
    "Return batches of (TensorImage float32 [batch, 3, crop, crop],): the photos in order, prepared as for validation."
    read = [ReadReduced(preprocess), ReadPhoto()]
    datasets = Datasets(list(photos), [read], splits=[range(len(photos))] * 2, types=[SOURCES, SOURCES, Photo])
    normalize = NormalizeInPlace.from_stats(preprocess["mean"], preprocess["std"], cuda=False)
    return PhotoLoader(
        datasets.valid,
        SamplerState(0),
        bs=bs,
        num_workers=workers,
        pin_memory=torch.device(device).type == "cuda",
        device=torch.device(device),
        after_item=[ResizeCenterCrop(preprocess)],
        after_batch=[IntToFloatTensor(), normalize],
    )


def linear_heads(model: nn.Module, instead: str = "it can't be probed; give another --arch") -> nn.ModuleList:
    """Return the layers from features to logits: one, or those of a distilled network, whose mean the logits are.

    instead: what follows and what to do, for the error. Raises ValueError if they are not linear layers with a bias.
    """
    found = model.get_classifier()
    several = isinstance(found, tuple | list | nn.ModuleList)
    heads = [model.get_submodule(name) for name in model.pretrained_cfg["classifier"]] if several else [found]
    if odd := [head for head in heads if not isinstance(head, nn.Linear | nn.Conv2d) or head.bias is None]:
        raise ValueError(
            f"the classifier of {type(model).__name__} is {type(odd[0]).__name__}, not a linear layer with a bias: "
            f"{instead}"
        )
    return nn.ModuleList(heads)


@torch.no_grad()
def head_inputs(
    model: nn.Module, batches: Iterable[tuple], device: torch.device, exact: bool = False
) -> tuple[Tensor, list[tuple]]:
    """Return the classifier's input for each image, float32 [images, features], and the rest of each batch.

    batches: (images, ...), on `device`. The model is in evaluation mode meanwhile. exact: see `cudnn_flags`. The inputs
    of several linear layers are put beside each other.
    Raises ValueError if the logits are not the mean of these layers' outputs.
    """
    heads, caught, features = linear_heads(model), [], []
    watches = [head.register_forward_hook(lambda head, inputs, out: caught.append((inputs[0], out))) for head in heads]
    mode, rest = model.training, []
    try:
        model.eval()
        with fast_math(device, exact), whole_batches(device, exact):
            for images, *others in batches:
                caught.clear()
                logits = model(images)
                if not rest:
                    _check_mean(model, logits, [out for _, out in caught][: len(heads)], len(heads))
                # without the padding of `whole_batches`
                own = [inputs.flatten(1)[: len(images)] for inputs, _ in caught]
                features.append(torch.cat(own, 1))
                rest.append(tuple(others))
    finally:
        for watch in watches:
            watch.remove()
        model.train(mode)
    return torch.cat(features).as_subclass(Tensor).float(), rest


def _check_mean(model: nn.Module, logits: Tensor, outs: list[Tensor], heads: int) -> None:
    "Raises ValueError if the logits are not the mean of the outputs `outs` of as many `heads`."
    mean = torch.stack([out.flatten(1).float() for out in outs]).mean(0)[: len(logits)] if outs else None
    if len(outs) != heads or not torch.allclose(logits.as_subclass(Tensor).float(), mean, rtol=0.05, atol=0.05):
        raise ValueError(
            f"the logits of {type(model).__name__} are not the mean of its {heads} linear layers: it can't be probed; "
            "give --no-probe, or another --arch"
        )
