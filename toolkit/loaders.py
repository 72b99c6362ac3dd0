"""A DataSet -> fastai DataLoaders, whose order and augmentation follow from (seed, epoch, sample) and nothing else."""

import os
import signal
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from threading import Thread
from typing import Any

import cv2
import numpy as np
import torch
from fastai.data.core import DataLoaders, Datasets, TfmdDL
from fastai.data.load import _loaders
from fastai.data.transforms import Categorize, IntToFloatTensor, Normalize
from fastai.torch_core import TensorCategory, to_detach, to_device
from fastai.vision.core import TensorImage
from fastcore.basics import chunked
from fasttransform import Transform
from PIL import Image, ImageOps

from toolkit.augment import reseed, train_transform
from toolkit.cache import TRAINED, PhotoCache, open_cache
from toolkit.data import DataSet
from toolkit.photo import read_photo, read_reduced, to_rgb
from toolkit.preprocess import prepare, smallest_side
from toolkit.profile import Clock


class Photo(np.ndarray):
    "A decoded photo, uint8 [height, width, 3] RGB; its own type, so that fastai's transforms tell it from a label."

    whole: tuple[int, int] | None = None  # height and width, where this is a photo that `read_reduced` reduced


SOURCES = (Path, str, bytes, Image.Image, np.ndarray)
"""What `dls.test_dl` and `learn.predict` may be given; fastai looks for it under each transform's `input_types`."""


class ReadReduced(Transform):
    "Path or bytes of a file -> Photo, as large as `prepare` needs it: how validation, test and export read."

    split_idx, input_types = 1, SOURCES

    def __init__(self, preprocess: dict[str, Any], cache: PhotoCache | None = None):
        self.shorter, self.cache = smallest_side(preprocess), cache

    def encodes(self, source: Path | str | bytes) -> Photo:
        kept = self.cache and self.cache.read(source, valid=True)
        photo, whole = kept or read_reduced(source, self.shorter)
        photo = photo.view(Photo)
        photo.whole = whole
        return photo


class ReadPhoto(Transform):
    """Path, bytes of a file, PIL image or uint8 RGB array -> Photo, whole, or as the cache has it to train on; one that
    was read before stays what it is.
    """

    input_types = SOURCES

    def __init__(self, cache: PhotoCache | None = None):
        self.cache = cache

    def encodes(self, source: Path | str | bytes | Image.Image | np.ndarray) -> Photo:
        if isinstance(source, Photo):
            return source
        if isinstance(source, Image.Image):
            source = photo_of(source)
        if not isinstance(source, np.ndarray):
            kept = self.cache and self.cache.read(source, valid=False)
            source = kept[0] if kept else read_photo(source)
        return source.view(Photo)


def photo_of(image: Image.Image) -> np.ndarray:
    "A PIL image as `read_photo` would read its file: uint8 [height, width, 3] RGB, upright, transparent over white."
    return np.array(to_rgb(ImageOps.exif_transpose(image)))


class Label(Transform):
    "Path -> the name of its class."

    def __init__(self, labels: dict[Path, str]):
        self.labels = labels

    def encodes(self, photo: Path) -> str:
        if photo not in self.labels:
            raise ValueError(f"{photo} is neither in train nor in valid: its label is not known; leave with_labels out")
        return self.labels[photo]


SAMPLERS = ["shuffle", "balanced"]


@dataclass
class Draws:
    "Which random draws come next; shared by the loaders of one DataLoaders, and copied into their workers."

    seed: int
    next_epoch: int = 0  # of the next pass over a training set; a callback may set it, and the next too
    skip: int = 0  # photos at the beginning of that pass that are left out, as trained on before
    epoch: int = 0
    sample: int = 0
    chances: dict[Path, float] | None = None  # of being drawn, with replacement; None: each photo once an epoch


class Augment(Transform):
    "The training transform: Photo -> TensorImage uint8 [3, size, size]."

    split_idx = 0

    def __init__(self, transform: Any, draws: Draws):
        self.transform, self.draws = transform, draws

    def encodes(self, photo: Photo) -> TensorImage:
        reseed(self.transform, self.draws.seed, self.draws.epoch, self.draws.sample)
        return _tensor(self.transform(image=np.asarray(photo))["image"])


class Prepare(Transform):
    "The validation and test transform, the one that export uses too: Photo -> TensorImage uint8 [3, crop, crop]."

    split_idx = 1

    def __init__(self, preprocess: dict[str, Any]):
        self.preprocess = preprocess

    def encodes(self, photo: Photo) -> TensorImage:
        return _tensor(prepare(np.asarray(photo), self.preprocess, photo.whole))


def _tensor(photo: np.ndarray) -> TensorImage:
    return TensorImage(torch.from_numpy(np.ascontiguousarray(photo)).permute(2, 0, 1))


class NormalizeInPlace(Normalize):
    "fastai's, to the bit, in a tenth of the time: no new memory, and mean and std laid out as the pixels are."

    def encodes(self, batch: TensorImage) -> TensorImage:  # float and new, as IntToFloatTensor gives it
        mean, std = (torch.empty_like(batch[:1]).copy_(value) for value in (self.mean, self.std))
        return batch.sub_(mean).div_(std)


class PhotoLoader(TfmdDL):
    """fastai's loader with draws that depend on (seed, epoch, sample) alone: the same for any number of workers.

    Each pass over a training set is an epoch of its own, those of `learn.tta` too. Where `share` is set, for training
    on several processes, a mini-batch is those of its samples only, or the first for want of one; `n`, `bs`, the length
    and the order stay those of the whole.
    """

    share: Callable[[int], range] | None = None  # of so many samples, which
    clock: Clock | None = None  # `toolkit.profile` measures with it

    def __init__(self, dataset: Datasets, draws: Draws, **options: Any):
        self.draws = draws
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

    def create_batches(self, samples: Iterable[int]) -> Iterator[tuple]:
        if self.share is None:
            return super().create_batches(samples)
        shares = ([batch[place] for place in self.share(len(batch)) or [0]] for batch in chunked(samples, self.bs))
        return (self.do_batch([self.do_item(index) for index in part]) for part in shares)

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
        self._DataLoader__idxs = self.get_idxs()  # where fastai's `sample` looks
        for batch in _loaders[self.fake_l.num_workers == 0](self.fake_l):
            if self.clock:
                self.clock.mark("data_wait")
            yield self.after_batch(to_device(tuple(batch), self.device, non_blocking=True))
        self.after_iter()
        self.__dict__.pop("it", None)

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
    preprocess: dict[str, Any],  # of validation and test, as `toolkit.preprocess.for_size` makes it
    augment: dict[str, Any],  # of training: what `toolkit.augment.train_transform` takes beside the size
    bs: int,
    workers: int = 0,
    device: torch.device | str = "cpu",
    seed: int = 0,
    classes: list[str] | None = None,  # in index order, where they are not those of the training photos
    sampler: str = "shuffle",  # an epoch's photos: each one once, or as many draws with classes balanced
    cache: str | Path | None = None,  # folder of `toolkit.cache.open_cache`; None: photos are decoded every time
) -> DataLoaders:
    """fastai DataLoaders over `data`: batches of TensorImage float32 [batch, 3, height, width], normalised on `device`,
    and of TensorCategory int64 [batch]. Training is shuffled and drops no image; validation is in order.
    sampler="balanced" draws as torch's WeightedRandomSampler does with the weights 1 / photos of the class: with
    replacement, each class as often as any other, so that an epoch repeats photos of rare classes and lacks others.
    Source: https://docs.pytorch.org/docs/stable/data.html#torch.utils.data.WeightedRandomSampler
    `dls.data`, `dls.preprocess` and `dls.augment` say what they are made of, and `dls.reduced_to` to which shorter side
    the cache reduced photos to train on: None where all are whole, and training is the same without it to the bit.
    """
    if bs < 1:
        raise ValueError(f"--bs {bs}: give 1 or more photos a mini-batch")
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
