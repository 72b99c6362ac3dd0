"""The answers of the trained model, in torch float32, on real photos: an exported file is compared with them."""

import warnings
from collections.abc import Collection
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from export.reading.prepare import prepared
from toolkit.evaluation.results import PREDICTIONS
from toolkit.files import read_csv
from toolkit.run import Run

if TYPE_CHECKING:
    from torch import nn

    from toolkit.data.dataset import DataSet

RECORDED = 0.9
"The least share of photos on which torch must give the label that training wrote down, perhaps in another precision."


@dataclass(frozen=True)
class Reference:
    "Labelled photos as a model takes them, and the answers of the trained model in torch float32."

    names: list[str]
    images: np.ndarray
    "uint8 [n, crop, crop, 3] RGB, prepared as for the model file."
    labels: list[str]
    "Class names [n]."
    classes: list[str]
    "In the order of the logits."
    logits: np.ndarray | None = None
    "float32 [n, classes]; None if there is no run to compare with."
    validation: bool = False
    "Whether these are the run's validation photos, to which its temperature is fitted."
    features: np.ndarray | None = None
    "float32 [n, features], the input of the linear classifier; None if the file to compare has no such output."
    source: str = "torch"
    "The logits are those of torch, or of other files, in words."


def validation_reference(run: Run, images: int = 1000, features: bool = False) -> Reference:
    """Up to `images` validation photos of the run, spread evenly over its classes.

    features: compute the features too. Raises FileNotFoundError if photos or valid_predictions.csv are gone, ValueError
    if the weights do not give the labels that training recorded for these photos.
    """
    data = dataset_of(run)
    labels = evenly(data.valid, images)
    if not labels:
        raise FileNotFoundError(
            f"the validation photos of {run.folder} are not at {run.recipe['data']['path']} as they were: "
            "a model is verified on real photos, bring them back"
        )
    reference = replace(_reference(run, data, labels, features), validation=True)
    _check_recorded(run, reference.names, [reference.classes[index] for index in reference.logits.argmax(1)])
    return reference


def training_reference(run: Run, images: int = 1000, features: bool = False) -> Reference:
    "Up to `images` training photos, drawn by the run's seed: for calibration and search, not for a certificate."
    data = dataset_of(run)
    photos = list(data.train)
    drawn = np.random.default_rng(run.recipe["options"].get("seed", 0)).permutation(len(photos))[:images]
    return _reference(run, data, {photos[index]: data.train[photos[index]] for index in drawn}, features)


def dataset_of(run: Run) -> "DataSet":
    "The run's data set; one without photos if they are gone or have changed, which is an error in the caller."
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # missing photos are an error in the caller
        return run.dataset()


def _reference(run: Run, data: "DataSet", labels: dict[Path, str], features: bool) -> Reference:
    names, preprocess = [data.relative(photo) for photo in labels], run.recipe["preprocess"]
    pixels = prepared_all(labels, preprocess)
    outputs = torch_outputs(run.model(), pixels, preprocess, features)
    return Reference(names, pixels, list(labels.values()), run.recipe["classes"], outputs[0], features=outputs[1])


def evenly(labels: dict[Path, str], count: int) -> dict[Path, str]:
    "At most `count` of the photos, spread evenly over the list and so over the classes. Raises ValueError below 1."
    if count < 1:
        raise ValueError(f"--images {count}: give 1 or more")
    photos = list(labels)
    picked = np.linspace(0, len(photos) - 1, min(count, len(photos))).round().astype(int)
    return {photos[index]: labels[photos[index]] for index in picked}


def prepared_all(photos: Collection[Path], preprocess: dict) -> np.ndarray:
    "The photos as a model takes them, uint8 [n, crop, crop, 3] RGB."
    images = np.empty((len(photos), preprocess["crop"], preprocess["crop"], 3), np.uint8)
    for image, path in zip(images, photos, strict=True):
        image[:] = prepared(path, preprocess)
    return images


def torch_outputs(
    model: "nn.Module", images: np.ndarray, preprocess: dict[str, Any], features: bool = False, bs: int = 16
) -> tuple[np.ndarray, np.ndarray | None]:
    """Logits float32 [n, classes] and features float32 [n, features] of prepared images, uint8 [n, crop, crop, 3].

    Divided, normalised and computed in channels last, as in training: the same to the bit. features: False for None in
    their place. Raises ValueError if the model's classifier has no linear layer.
    """
    import torch

    mean, std = (torch.tensor(preprocess[name]).view(1, 3, 1, 1) for name in ("mean", "std"))
    model.eval()
    caught: list[torch.Tensor] = []
    layers = [_linear(model)] if features else []
    hooks = [each.register_forward_pre_hook(lambda _, given: caught.append(given[0].flatten(1))) for each in layers]
    with torch.inference_mode():
        batches = (torch.from_numpy(images[start : start + bs]) for start in range(0, len(images), bs))
        pixels = (batch.permute(0, 3, 1, 2).float().div_(255).sub_(mean).div_(std) for batch in batches)
        logits = np.concatenate([model(batch).numpy() for batch in pixels])
    for hook in hooks:
        hook.remove()
    return logits, torch.cat(caught).numpy() if features else None


def _linear(model: "nn.Module") -> "nn.Module":
    "The last layer of timm's classifier of a model. Raises ValueError if that is not one linear layer."
    from torch import nn

    head = model.get_classifier()
    heads = list(head) if isinstance(head, tuple) else [head]  # a distilled network has two
    layers = [each for one in heads if one for each in one.modules() if isinstance(each, nn.Linear | nn.Conv2d)]
    if len(layers) != 1:
        kinds = " and ".join(type(one).__name__ for one in heads)
        raise ValueError(
            f"--features: the classifier of {type(model).__name__} is {kinds}, not one linear layer: leave --features "
            "out, or train another --arch"
        )
    return layers[0]


def _check_recorded(run: Run, names: list[str], labels: list[str]) -> None:
    "Raises ValueError if these are not the labels in valid_predictions.csv, FileNotFoundError if that is missing."
    path = run.path("valid_predictions.csv")
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file; the run has not been evaluated yet, continue it with --resume")
    recorded = {file: label for file, _, label, _ in read_csv(path, PREDICTIONS)[1:]}
    share = np.mean([recorded.get(name) == label for name, label in zip(names, labels, strict=True)])
    if share < RECORDED:
        raise ValueError(
            f"torch gives the label that training recorded on {share:.2%} of the photos, "
            f"at least {RECORDED:.0%} wanted: best.safetensors or recipe.json is not this run's"
        )
