"""The mean of several model files on real photos: an averaged file is compared with it."""

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from export.convert.average import SMALLEST
from export.convert.fp16 import as_computed
from export.convert.raw_outputs import raw_outputs
from export.parity.reference import Reference, dataset_of, prepared_all
from export.session import Classifier
from toolkit.run import Run, load


def files_reference(
    models: Sequence[Path], orders: list[list[int]], labels: dict[Path, str], device: str, precision: str
) -> Reference:
    """The photos of `labels`, and as logits the logarithm of the mean of the files' probabilities.

    orders: for each file, the index in it of each class of the first file. The files are opened in turn.
    """
    card = Classifier(models[0], "cpu").card
    images = prepared_all(labels, card.preprocess)
    total = np.zeros((len(images), len(card.classes)))
    for model, order in zip(models, orders, strict=True):
        with as_computed(model, precision, device) as computed:
            total += raw_outputs(Classifier(computed, device), images)[1][:, order]
    logits = np.log(np.maximum(total / len(models), SMALLEST)).astype(np.float32)
    names = [f"{photo.parent.name}/{photo.name}" for photo in labels]  # a file names no path of this machine
    source = f"the mean of the probabilities of {len(models)} files"
    return Reference(names, images, list(labels.values()), card.classes, logits, source=source)


def runs_of(models: Sequence[Path]) -> list[Run]:
    "The runs in whose folders the files lie."
    folders = dict.fromkeys(model.absolute().parent for model in models)
    return [load(folder) for folder in folders if (folder / "recipe.json").is_file()]


def validation_labels(runs: Sequence[Run]) -> dict[Path, str]:
    "The label of each validation photo of the runs that is still there."
    return {photo: label for run in runs for photo, label in dataset_of(run).valid.items()}


def trained_on(photos: Iterable[Path], runs: Sequence[Run]) -> int:
    "The number of `photos` that are training photos of at least one run, by their paths."
    return _among(photos, [photo for run in runs for photo in dataset_of(run).train])


def validated_on(photos: Iterable[Path], runs: Sequence[Run]) -> int:
    "The number of `photos` that are validation photos of at least one run, by their paths."
    return _among(photos, validation_labels(runs))


def _among(photos: Iterable[Path], others: Iterable[Path]) -> int:
    seen = {photo.resolve() for photo in others}
    return sum(photo.resolve() in seen for photo in photos)
