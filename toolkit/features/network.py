"""A data set seen by a pretrained network."""

import torch

from toolkit.data.checks.findings import CheckedPhoto
from toolkit.data.dataset import DataSet
from toolkit.data.preprocess import for_size
from toolkit.features.doubts import Doubt
from toolkit.features.extract import features_and_thumbnails
from toolkit.features.find_doubts import Labelled, find_doubts
from toolkit.learner.device import pick_device, pick_workers
from toolkit.models.timm_model import create_model, normalization_of


def seen_by(
    data: DataSet,
    photos: list[CheckedPhoto],
    arch: str,
    weights: str,
    image_size: int,
    device: str = "auto",
    workers: int | None = None,
    seed: int = 0,
) -> list[Doubt]:
    """Return the doubts about `photos`, which can be read, by the features of a pretrained network in float32.

    data: the data set that they are of. The other arguments are the options of `toolkit.check`. Raises ValueError,
    FileNotFoundError and ConnectionError as `create_model` and `pick_device` do.
    """
    place = pick_device(device)
    model = create_model(arch, len(data.classes), weights, image_size=image_size)
    model = model.to(place, memory_format=torch.channels_last)
    preprocess = for_size(image_size, **normalization_of(model))
    paths = {data.relative(path): path for path in (*data.train, *data.valid, *data.test.values())}
    files = [paths[photo.file] for photo in photos]
    found = features_and_thumbnails(model, files, preprocess, place, pick_workers(workers))
    return find_doubts([Labelled(photo.file, photo.split, photo.label) for photo in photos], *found, seed=seed)
