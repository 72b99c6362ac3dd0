"""A DataSet -> fastai DataLoaders, whose order and augmentation follow from (seed, epoch, sample) and nothing else."""

import os
import signal
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from threading import Thread
from typing import Any

import cv2
import numpy as np
import torch
from fastai.data.core import DataLoaders, Datasets, TfmdDL
from fastai.data.transforms import Categorize, IntToFloatTensor
from fastai.torch_core import TensorCategory, to_detach, to_device
from fastai.vision.core import TensorImage
from fastcore.basics import chunked

from toolkit.data.augmentation import Augmentation, check_output
from toolkit.data.cache import TRAINED, PhotoCache, open_cache
from toolkit.data.dataset import DataSet
from toolkit.data.preprocess import preprocessing
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
from toolkit.data.workers import Ticket, Workers
from toolkit.options import Options
from toolkit.ranges import check_ranges


class PhotoLoader(TfmdDL):
    """fastai's loader with draws that depend on (seed, epoch, sample) alone: the same for any number of workers.

    Each pass over a training set is an epoch of its own, those of `learn.tta` too. Where `share` is set, for training
    on several processes, a mini-batch is those of its samples only, or the first for want of one; `n`, `bs`, the length
    and the order stay those of the whole.
    """

    share: Callable[[int], range] | None = None  # of so many samples, which
    mark: Callable[[str], object] | None = None  # called with "data_wait" when a batch has come; the profiler sets it

    def __init__(self, dataset: Datasets, sampler_state: SamplerState, **options: Any):
        self.sampler_state, self.workers = sampler_state, Workers()
        super().__init__(dataset, **options)

    def new(self, dataset: Datasets | None = None, cls: type | None = None, **options: Any) -> "PhotoLoader":
        return super().new(dataset, cls, **{"sampler_state": self.sampler_state} | options)

    def before_iter(self) -> None:
        super().before_iter()
        if self.dataset.split_idx == 0:
            self.sampler_state.epoch = self.sampler_state.next_epoch
            self.sampler_state.next_epoch += 1

    def get_idxs(self) -> list[int]:
        "The order of a pass, less what it skips; the whole of it is kept as `order`."
        self.order = super().get_idxs()
        if self.dataset.split_idx != 0:
            return self.order
        skip, self.sampler_state.skip = self.sampler_state.skip, 0
        return self.order[skip:]

    def tickets(self, samples: list[int]) -> list[Ticket]:
        "The mini-batches of a pass over `samples`. A process without a share of one loads its first sample."
        batches = chunked(samples, self.bs, self.drop_last)
        if self.share is not None:
            batches = ([batch[place] for place in self.share(len(batch)) or [0]] for batch in batches)
        return [Ticket(self.sampler_state.epoch, list(batch)) for batch in batches]

    def load(self, epoch: int, samples: list[int]) -> Any:
        "The mini-batch of these samples, as that epoch augments them; None if the transforms skip all of them."
        self.sampler_state.epoch = epoch
        loaded = [sample for sample in map(self.do_item, samples) if sample is not None]
        return self.do_batch(loaded) if loaded else None

    def batch_photos(self, batch: int) -> list[Path]:
        "The photos in the mini-batch of this number, from 0, of the pass that was begun last."
        return [self.items[index % self.n] for index in self.order[batch * self.bs : (batch + 1) * self.bs]]

    def shuffle_fn(self, indices: list[int]) -> list[int]:
        "`indices` in another order; or as many draws of them, which come to `index + n` where one comes a second time."
        generator = np.random.default_rng((self.sampler_state.seed, self.sampler_state.epoch))
        if self.sampler_state.sampling_weights is None or not indices:
            return generator.permutation(indices).tolist()
        chances = np.array([self.sampler_state.sampling_weights[self.items[index]] for index in indices])
        drawn, times = generator.choice(indices, len(indices), p=chances / chances.sum()).tolist(), Counter()
        for place, index in enumerate(drawn):
            drawn[place] += self.n * times[index]
            times[index] += 1
        return drawn

    def do_item(self, index: int) -> Any:
        self.sampler_state.sample = (
            index  # a photo's second time in an epoch is augmented in another way than its first
        )
        return super().do_item(index % self.n)

    def wif(self) -> None:
        cv2.setNumThreads(0)  # the workers are the parallelism
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal sends it to the workers too, a cluster SIGTERM
        if hasattr(signal, "sigwaitinfo"):
            signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
            Thread(target=_end_for, args=[os.getppid()], daemon=True).start()

    def create_batch(self, samples: list[tuple]) -> tuple:
        "fastai's, with photos as they lie in memory, channels last: it would turn each round."
        if not isinstance(samples[0][0], TensorImage):
            return super().create_batch(samples)
        photos, *rest = super().create_batch([(photo.permute(1, 2, 0), *rest) for photo, *rest in samples])
        return photos.permute(0, 3, 1, 2), *rest

    def __iter__(self) -> Iterator[tuple]:
        "fastai's, but the host does not wait for a copy from pinned memory: what computes with it is queued behind it."
        self.randomize()
        self.before_iter()
        fake, tickets = self.fake_l, self.tickets(self.get_idxs())
        options = {"num_workers": fake.num_workers, "pin_memory": fake.pin_memory, "timeout": fake.timeout}
        for batch in self.workers.batches(
            self.load, tickets, self._given(), self.wif, self.sampler_state.seed, **options
        ):
            if batch is None:
                continue
            if self.mark:
                self.mark("data_wait")
            yield self.after_batch(to_device(tuple(batch), self.device, non_blocking=True))
        self.after_iter()

    def _given(self) -> list[Any]:
        "All that `load` depends on beside its arguments; of `draws` only the epoch changes, and a ticket names it."
        own = [self.dataset, self.after_item, self.before_batch]
        return own + [value for name, value in vars(self).items() if name in self._methods]

    def to_detach(self, batch: Any, cpu: bool = True, gather: bool = True) -> Any:
        "fastai's, but a loss or metric stays on its device: the host asks for it once an epoch, not every batch."
        if isinstance(batch, torch.Tensor) and batch.dim() == 0:
            return batch.detach()
        return to_detach(batch, cpu=cpu, gather=False)  # ranks that predict have the same photos each


def _end_for(parent: int) -> None:
    "End this worker at a SIGTERM from its parent only: at others, the step being trained needs its photos to be saved."
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != parent:
        pass
    os._exit(0)


class PhotoLoaders(DataLoaders):
    "fastai's DataLoaders, with what they are made of."

    data: DataSet
    preprocess: dict[str, Any]  # of validation and test photos, as recipe.json and model.onnx record it
    augment: Augmentation  # of training photos
    reduced_to: int | None  # shorter side in pixels of cached training photos; None if all are whole


def make_dataloaders(
    options: Options,
    data: DataSet,
    train: Sequence[Any] | Augmentation,
    valid: dict[str, int],
    normalize: dict[str, Sequence[float]],
    classes: list[str] | None = None,
) -> PhotoLoaders:
    """fastai DataLoaders over `data`: batches of TensorImage float32 [batch, 3, height, width] and TensorCategory int64
    [batch]. Photos are normalised on the device.

    Training is shuffled and drops no photo; validation is in order. --sampler balanced draws as torch's
    WeightedRandomSampler does with the weights 1 / photos of the class: with replacement, each class as often as any
    other, so that an epoch repeats photos of rare classes and lacks others. If --cache reduces no photo
    (`reduced_to` is None), training is the same without it to the bit.
    options: device and workers are resolved (`toolkit.learner.device.resolved`). train: albumentations transforms.
    valid: `toolkit.data.preprocess.resize_center_crop`. normalize: mean and std, RGB; empty for ImageNet's. classes: in
    index order, if they are not those of the training photos.
    Source: https://docs.pytorch.org/docs/stable/data.html#torch.utils.data.WeightedRandomSampler
    """
    check_ranges({"bs": options.bs, "workers": options.workers})
    preprocess = preprocessing(valid, **normalize)
    augment = train if isinstance(train, Augmentation) else Augmentation.of(train)
    check_output(transform := augment.at(options.image_size), options.image_size)
    cache = options.cache and open_cache(options.cache, data, preprocess, options.workers or None)
    datasets = _datasets(data, preprocess, cache, classes or data.classes)
    state = SamplerState(options.seed)
    if options.sampler == "balanced":
        state.sampling_weights = {photo: 1 / data.counts[name] for photo, name in data.train.items()}
    loader = PhotoLoader(
        datasets.train,
        state,
        bs=options.bs,
        shuffle=True,
        drop_last=False,
        num_workers=options.workers,
        pin_memory=options.device.startswith("cuda"),
        after_item=[Augment(transform, state), ResizeCenterCrop(preprocess)],
        after_batch=[
            IntToFloatTensor(),
            NormalizeInPlace.from_stats(preprocess["mean"], preprocess["std"], cuda=False),
        ],
    )
    loader._n_inp, loader._types = 1, {tuple: [TensorImage, TensorCategory]}  # else found out from a first batch
    both = loader, loader.new(datasets.valid, shuffle=False)
    dls = PhotoLoaders(*both, path=data.root, device=torch.device(options.device))
    dls.data, dls.preprocess, dls.augment = data, preprocess, augment
    dls.reduced_to = TRAINED * preprocess["crop"] if cache and cache.reduces(data.train) else None
    return dls


def _datasets(data: DataSet, preprocess: dict[str, Any], cache: PhotoCache | None, classes: list[str]) -> Datasets:
    "fastai Datasets of (photo, label): the training photos, then the validation photos."
    photos, label = [*data.train, *data.valid], Label(data.train | data.valid)
    splits = range(len(data.train)), range(len(data.train), len(photos))
    return Datasets(
        photos,
        [[ReadReduced(preprocess, cache), ReadPhoto(cache)], [label, Categorize(vocab=classes, sort=False)]],
        splits=[list(part) for part in splits],
        types=[SOURCES, SOURCES, Photo],  # fastai finds them out from a photo, and there may be none
    )
