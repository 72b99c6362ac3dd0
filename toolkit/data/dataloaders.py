"""A DataSet -> fastai DataLoaders, whose order and augmentation follow from (seed, epoch, sample) and nothing else."""

import os
import signal
from collections import Counter
from collections.abc import Callable, Iterator
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

from toolkit.data.augment import train_transform
from toolkit.data.cache import TRAINED, open_cache
from toolkit.data.dataset import DataSet
from toolkit.data.transforms import (
    SOURCES,
    Augment,
    Draws,
    Label,
    NormalizeInPlace,
    Photo,
    Prepare,
    ReadPhoto,
    ReadReduced,
)
from toolkit.data.workers import Ticket, Workers
from toolkit.ranges import check_ranges

SAMPLERS = ["shuffle", "balanced"]


class PhotoLoader(TfmdDL):
    """fastai's loader with draws that depend on (seed, epoch, sample) alone: the same for any number of workers.

    Each pass over a training set is an epoch of its own, those of `learn.tta` too. Where `share` is set, for training
    on several processes, a mini-batch is those of its samples only, or the first for want of one; `n`, `bs`, the length
    and the order stay those of the whole.
    """

    share: Callable[[int], range] | None = None  # of so many samples, which
    mark: Callable[[str], object] | None = None  # called with "data_wait" when a batch has come; the profiler sets it

    def __init__(self, dataset: Datasets, draws: Draws, **options: Any):
        self.draws, self.workers = draws, Workers()
        super().__init__(dataset, **options)

    def new(self, dataset: Datasets | None = None, cls: type | None = None, **options: Any) -> "PhotoLoader":
        return super().new(dataset, cls, **{"draws": self.draws} | options)

    def before_iter(self) -> None:
        super().before_iter()
        if self.dataset.split_idx == 0:
            self.draws.epoch = self.draws.next_epoch
            self.draws.next_epoch += 1

    def get_idxs(self) -> list[int]:
        "The order of a pass, less what it skips; the whole of it is kept as `order`."
        self.order = super().get_idxs()
        if self.dataset.split_idx != 0:
            return self.order
        skip, self.draws.skip = self.draws.skip, 0
        return self.order[skip:]

    def tickets(self, samples: list[int]) -> list[Ticket]:
        "The mini-batches of a pass over `samples`. A process without a share of one loads its first sample."
        batches = chunked(samples, self.bs, self.drop_last)
        if self.share is not None:
            batches = ([batch[place] for place in self.share(len(batch)) or [0]] for batch in batches)
        return [Ticket(self.draws.epoch, list(batch)) for batch in batches]

    def load(self, epoch: int, samples: list[int]) -> Any:
        "The mini-batch of these samples, as that epoch augments them; None if the transforms skip all of them."
        self.draws.epoch = epoch
        loaded = [sample for sample in map(self.do_item, samples) if sample is not None]
        return self.do_batch(loaded) if loaded else None

    def batch_photos(self, batch: int) -> list[Path]:
        "The photos in the mini-batch of this number, from 0, of the pass that was begun last."
        return [self.items[index % self.n] for index in self.order[batch * self.bs : (batch + 1) * self.bs]]

    def shuffle_fn(self, indices: list[int]) -> list[int]:
        "`indices` in another order; or as many draws of them, which come to `index + n` where one comes a second time."
        generator = np.random.default_rng((self.draws.seed, self.draws.epoch))
        if self.draws.chances is None or not indices:
            return generator.permutation(indices).tolist()
        chances = np.array([self.draws.chances[self.items[index]] for index in indices])
        drawn, times = generator.choice(indices, len(indices), p=chances / chances.sum()).tolist(), Counter()
        for place, index in enumerate(drawn):
            drawn[place] += self.n * times[index]
            times[index] += 1
        return drawn

    def do_item(self, index: int) -> Any:
        self.draws.sample = index  # a photo's second time in an epoch is augmented in another way than its first
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
        for batch in self.workers.batches(self.load, tickets, self._given(), self.wif, self.draws.seed, **options):
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


def make_loaders(
    data: DataSet,
    preprocess: dict[str, Any],  # of validation and test, as `toolkit.data.preprocess.for_size` makes it
    augment: dict[str, Any],  # of training: what `toolkit.data.augment.train_transform` takes beside the size
    bs: int,
    workers: int = 0,
    device: torch.device | str = "cpu",
    seed: int = 0,
    classes: list[str] | None = None,  # in index order, where they are not those of the training photos
    sampler: str = "shuffle",  # an epoch's photos: each one once, or as many draws with classes balanced
    cache: str | Path | None = None,  # folder of `toolkit.data.cache.open_cache`; None: photos are decoded every time
) -> DataLoaders:
    """fastai DataLoaders over `data`: batches of TensorImage float32 [batch, 3, height, width], normalised on `device`,
    and of TensorCategory int64 [batch]. Training is shuffled and drops no image; validation is in order.
    sampler="balanced" draws as torch's WeightedRandomSampler does with the weights 1 / photos of the class: with
    replacement, each class as often as any other, so that an epoch repeats photos of rare classes and lacks others.
    Source: https://docs.pytorch.org/docs/stable/data.html#torch.utils.data.WeightedRandomSampler
    `dls.data`, `dls.preprocess` and `dls.augment` say what they are made of, and `dls.reduced_to` to which shorter side
    the cache reduced photos to train on: None where all are whole, and training is the same without it to the bit.
    """
    check_ranges({"bs": bs})
    if sampler not in SAMPLERS:
        raise ValueError(f"unknown --sampler {sampler!r}: choose one of {', '.join(SAMPLERS)}")
    photos, label = [*data.train, *data.valid], Label(data.train | data.valid)
    splits = range(len(data.train)), range(len(data.train), len(photos))
    categorize = Categorize(vocab=classes or data.classes, sort=False)
    kept = None if cache is None else open_cache(cache, data, preprocess, workers or None)
    datasets = Datasets(
        photos,
        [[ReadReduced(preprocess, kept), ReadPhoto(kept)], [label, categorize]],
        splits=[list(part) for part in splits],
        types=[SOURCES, SOURCES, Photo],  # fastai finds them out from a photo, and there may be none
    )
    draws = Draws(seed)
    if sampler == "balanced":
        draws.chances = {photo: 1 / data.counts[name] for photo, name in data.train.items()}
    train = PhotoLoader(
        datasets.train,
        draws,
        bs=bs,
        shuffle=True,
        drop_last=False,
        num_workers=workers,
        pin_memory=torch.device(device).type == "cuda",
        after_item=[Augment(train_transform(preprocess["crop"], **augment), draws), Prepare(preprocess)],
        after_batch=[
            IntToFloatTensor(),
            NormalizeInPlace.from_stats(preprocess["mean"], preprocess["std"], cuda=False),
        ],
    )
    train._n_inp, train._types = 1, {tuple: [TensorImage, TensorCategory]}  # else found out from a first batch
    dls = DataLoaders(train, train.new(datasets.valid, shuffle=False), path=data.root, device=device)
    dls.data, dls.preprocess, dls.augment = data, preprocess, augment
    dls.reduced_to = TRAINED * preprocess["crop"] if kept and kept.reduces(data.train) else None
    return dls
