"""What the trained model, in torch float32, says of real photos: what a file is compared with."""

import warnings
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from export.reading.prepare import prepared
from toolkit.evaluation.results import PREDICTIONS
from toolkit.files import read_csv
from toolkit.run import Run

if TYPE_CHECKING:
    from fastai.learner import Learner

RECORDED = 0.9  # of torch's labels must be those that training wrote down, in another precision perhaps


@dataclass(frozen=True)
class Reference:
    "Labelled photos as a model is fed with them, and what the trained model, in torch float32, says of them."

    names: list[str]
    images: np.ndarray
    "uint8 [n, crop, crop, 3] RGB, by the shipped preprocessing."
    labels: list[str]
    "Class names [n]."
    classes: list[str]
    "In the order of the logits."
    logits: np.ndarray | None = None
    "float32 [n, classes], by fastai's own loader; None where there is no run to ask."
    validation: bool = False
    "Whether the run was validated on these photos: its temperature is fitted to them."


def reference_of(run: Run, images: int = 1000) -> Reference:
    """Up to `images` validation photos of the run, spread evenly over its classes.

    Raises FileNotFoundError where photos or valid_predictions.csv are gone, ValueError where the weights do not say of
    these photos what training recorded.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of photos that are gone, which is an error below
        learn, classes = run.learner("cpu"), run.recipe["classes"]
    labels = evenly(learn.dls.data.valid, images)
    if not labels:
        raise FileNotFoundError(
            f"the validation photos of {run.folder} are not at {run.recipe['data']['path']} as they were: "
            "a model is verified on real photos, bring them back"
        )
    names, logits = [learn.dls.data.relative(photo) for photo in labels], torch_logits(learn, list(labels))
    _check_recorded(run, names, [classes[index] for index in logits.argmax(1)])
    images = prepared_all(labels, run.recipe["preprocess"])
    return Reference(names, images, list(labels.values()), classes, logits, validation=True)


def training_reference(run: Run, images: int = 1000) -> Reference:
    "Up to `images` training photos, drawn by the run's seed: to calibrate and to search by, not to certify by."
    learn = run.learner("cpu")
    photos = list(learn.dls.data.train)
    drawn = np.random.default_rng(run.recipe["options"].get("seed", 0)).permutation(len(photos))[:images]
    labels = {photos[index]: learn.dls.data.train[photos[index]] for index in drawn}
    names, logits = [learn.dls.data.relative(photo) for photo in labels], torch_logits(learn, list(labels))
    pixels = prepared_all(labels, run.recipe["preprocess"])
    return Reference(names, pixels, list(labels.values()), run.recipe["classes"], logits)


def evenly(labels: dict[Path, str], count: int) -> dict[Path, str]:
    "At most `count` of the photos, spread evenly over the list and so over the classes. Raises ValueError for none."
    if count < 1:
        raise ValueError(f"--images {count}: give 1 or more")
    photos = list(labels)
    picked = np.linspace(0, len(photos) - 1, min(count, len(photos))).round().astype(int)
    return {photos[index]: labels[photos[index]] for index in picked}


def prepared_all(photos: Collection[Path], preprocess: dict) -> np.ndarray:
    "The photos as a model is fed with them, uint8 [n, crop, crop, 3] RGB."
    images = np.empty((len(photos), preprocess["crop"], preprocess["crop"], 3), np.uint8)
    for image, path in zip(images, photos, strict=True):
        image[:] = prepared(path, preprocess)
    return images


def torch_logits(learn: "Learner", photos: list[Path]) -> np.ndarray:
    "float32 [n, classes], by fastai's loader: its reading, its preparing, its normalisation."
    import torch

    learn.model.eval()
    with torch.inference_mode():
        return np.concatenate([learn.model(batch[0]).numpy() for batch in learn.dls.test_dl(photos, bs=16)])


def _check_recorded(run: Run, names: list[str], labels: list[str]) -> None:
    "Raises ValueError where these are not the labels of valid_predictions.csv, FileNotFoundError where there is none."
    path = run.path("valid_predictions.csv")
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file; the run has not been evaluated, go on with it by --resume")
    recorded = {file: label for file, _, label, _ in read_csv(path, PREDICTIONS)[1:]}
    share = np.mean([recorded.get(name) == label for name, label in zip(names, labels, strict=True)])
    if share < RECORDED:
        raise ValueError(
            f"torch gives the label that training recorded on {share:.2%} of the photos, "
            f"at least {RECORDED:.0%} wanted: best.safetensors or recipe.json is not this run's"
        )
