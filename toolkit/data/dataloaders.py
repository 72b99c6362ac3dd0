"""A DataSet -> fastai DataLoaders for training and validation."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from fastai.data.core import DataLoaders, Datasets
from fastai.data.transforms import Categorize, IntToFloatTensor
from fastai.torch_core import TensorCategory
from fastai.vision.core import TensorImage

from toolkit.data.augmentation import Augmentation, check_output
from toolkit.data.cache import TRAINED, PhotoCache, open_cache
from toolkit.data.dataset import DataSet
from toolkit.data.photo_loader import PhotoLoader
from toolkit.data.preprocess import fitted, preprocessing
from toolkit.data.transforms import (
    SOURCES,
    Augment,
    Label,
    NormalizeInPlace,
    Photo,
    ReadPhoto,
    ReadReduced,
    ResizeCenterCrop,
    SamplerState,
)
from toolkit.options import Options, check_choices
from toolkit.ranges import check_ranges


class PhotoLoaders(DataLoaders):
    "fastai's DataLoaders, with the data set and the transforms that they were made of."

    data: DataSet
    preprocess: dict[str, Any]  # of validation and test photos, as recipe.json and model.onnx record it
    augment: Augmentation  # of training photos
    reduced_to: int | None  # shorter side in pixels of cached training photos; None if the cache reduces none


def check_own(dls: DataLoaders) -> None:
    "Raise TypeError for loaders that no recipe made: they do not know their data set."
    if not isinstance(dls, PhotoLoaders):
        raise TypeError(
            f"learn.dls is {type(dls).__name__}, and this needs a recipe's data loaders: take those of "
            "recipes.hw1.learner(...).dls; for another batch size set learn.dls.train.bs"
        )


def make_dataloaders(
    options: Options,
    data: DataSet,
    train: Sequence[Any] | Augmentation,
    valid: dict[str, int],
    normalize: dict[str, Sequence[float]],
    classes: list[str] | None = None,
) -> PhotoLoaders:
    """Return fastai DataLoaders over `data`. A batch is (TensorImage float32 [batch, 3, height, width], TensorCategory
    int64 [batch]). Photos are normalised on the device.

    Training photos are shuffled, and none is dropped. Validation photos are in order. --sampler balanced draws as
    torch's WeightedRandomSampler does with the weights 1 / photos of the class: with replacement, and each class
    equally often. An epoch then repeats photos of rare classes and lacks some of the others. If --cache reduces no
    photo (`reduced_to` is None), training is the same to the bit as without it.
    options: device and workers are resolved (`toolkit.learner.device.resolved`). train: albumentations transforms.
    valid: `toolkit.data.preprocess.resize_center_crop`; --fit may put the whole photo in its place. normalize: mean and
    std, RGB; empty for ImageNet's. classes: names in index order (default: those of the training photos).
    Source: https://docs.pytorch.org/docs/stable/data.html#torch.utils.data.WeightedRandomSampler
    """
    check_choices({"sampler": options.sampler})
    check_ranges({"bs": options.bs, "workers": options.workers})
    preprocess = preprocessing(fitted(valid, options.fit), **normalize)
    augment = train if isinstance(train, Augmentation) else Augmentation.of(train)
    check_output(transform := augment.at(options.image_size), options.image_size)
    cache = options.cache and open_cache(options.cache, data, preprocess, options.workers or None)
    datasets = _datasets(data, preprocess, cache, classes or data.classes)
    state = SamplerState(options.seed, sampling_weights=_sampling_weights(data, options.sampler))
    loader = PhotoLoader(
        datasets.train,
        state,
        bs=options.bs,
        shuffle=True,
        drop_last=False,
        num_workers=options.workers,
        pin_memory=options.device.startswith("cuda"),
        after_item=[Augment(transform, state, preprocess), ResizeCenterCrop(preprocess)],
        after_batch=[IntToFloatTensor(), _normalization(preprocess)],
    )
    # fastai would load a batch to find these two
    loader._n_inp, loader._types = 1, {tuple: [TensorImage, TensorCategory]}
    both = loader, loader.new(datasets.valid, shuffle=False)
    dls = PhotoLoaders(*both, path=data.root, device=torch.device(options.device))
    dls.data, dls.preprocess, dls.augment = data, preprocess, augment
    dls.reduced_to = TRAINED * preprocess["crop"] if cache and cache.reduces(data.train) else None
    return dls


def _normalization(preprocess: dict[str, Any]) -> NormalizeInPlace:
    return NormalizeInPlace.from_stats(preprocess["mean"], preprocess["std"], cuda=False)


def _sampling_weights(data: DataSet, sampler: str) -> dict[Path, float] | None:
    return {photo: 1 / data.counts[name] for photo, name in data.train.items()} if sampler == "balanced" else None


def _datasets(data: DataSet, preprocess: dict[str, Any], cache: PhotoCache | None, classes: list[str]) -> Datasets:
    "fastai Datasets of (photo, label): the training photos, then the validation photos."
    photos, label = [*data.train, *data.valid], Label(data.train | data.valid)
    splits = range(len(data.train)), range(len(data.train), len(photos))
    return Datasets(
        photos,
        [[ReadReduced(preprocess, cache), ReadPhoto(cache)], [label, Categorize(vocab=classes, sort=False)]],
        splits=[list(part) for part in splits],
        types=[SOURCES, SOURCES, Photo],  # fastai would load a photo to find them, and there may be none
    )
