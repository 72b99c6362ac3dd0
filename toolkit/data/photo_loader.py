"""fastai's data loader, whose order and augmentation follow from (seed, epoch, sample) and nothing else."""

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
from fastai.data.core import Datasets, TfmdDL
from fastai.torch_core import to_detach, to_device
from fastai.vision.core import TensorImage
from fastcore.basics import chunked

from toolkit.data.transforms import SamplerState
from toolkit.data.workers import LoadingOptions, Ticket, Workers


class PhotoLoader(TfmdDL):
    """fastai's loader with draws that depend on (seed, epoch, sample) alone: the same for any number of workers.

    Each pass over a training set is an epoch of its own, those of `learn.tta` too. If `share` is set, for training on
    several ranks, each rank loads its share of every batch. A rank without samples loads the batch's first one as a
    placeholder. `n`, `bs`, the length and the order are still those of all ranks together.
    """

    share: Callable[[int], range] | None = None  # size of a batch -> positions of this rank's samples in it
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
        "The samples of a pass in order, without those it skips; `order` keeps all of them."
        self.order = super().get_idxs()
        if self.dataset.split_idx != 0:
            return self.order
        skip, self.sampler_state.skip = self.sampler_state.skip, 0
        return self.order[skip:]

    def tickets(self, samples: list[int]) -> list[Ticket]:
        "The batches of a pass over `samples`. A rank without a share of a batch loads its first sample."
        batches = chunked(samples, self.bs, self.drop_last)
        if self.share is not None:
            batches = ([batch[position] for position in self.share(len(batch)) or [0]] for batch in batches)
        return [Ticket(self.sampler_state.epoch, list(batch)) for batch in batches]

    def load(self, epoch: int, samples: list[int]) -> Any:
        "The batch of these samples, as that epoch augments them; None if the transforms skip all of them."
        self.sampler_state.epoch = epoch
        loaded = [sample for sample in map(self.do_item, samples) if sample is not None]
        return self.do_batch(loaded) if loaded else None

    def show_batch(
        self, b: tuple | None = None, max_n: int = 9, *given: Any, unique: bool = False, **options: Any
    ) -> Any:
        "fastai's. unique: the first photo, as often as `max_n` says, each time augmented anew."
        if unique and b is None:
            self.before_iter()
            batch = self.load(self.sampler_state.epoch, [self.n * time for time in range(max_n)])
            b = self.after_batch(to_device(batch, self.device))
        return super().show_batch(b, max_n, *given, **options)

    def batch_photos(self, batch: int) -> list[Path]:
        "The photos of the batch of this number, from 0, in the pass that was started last."
        return [self.items[index % self.n] for index in self.order[batch * self.bs : (batch + 1) * self.bs]]

    def shuffle_fn(self, indices: list[int]) -> list[int]:
        """`indices` shuffled. With sampling weights: as many draws of them with replacement.

        An index that is drawn again is returned as index + n, then index + 2 n and so on.
        """
        generator = np.random.default_rng((self.sampler_state.seed, self.sampler_state.epoch))
        if self.sampler_state.sampling_weights is None or not indices:
            return generator.permutation(indices).tolist()
        weights = np.array([self.sampler_state.sampling_weights[self.items[index]] for index in indices])
        drawn, times = generator.choice(indices, len(indices), p=weights / weights.sum()).tolist(), Counter()
        for position, index in enumerate(drawn):
            drawn[position] += self.n * times[index]
            times[index] += 1
        return drawn

    def do_item(self, index: int) -> Any:
        self.sampler_state.sample = index  # not index % n: a photo drawn twice in an epoch is augmented in two ways
        return super().do_item(index % self.n)

    def wif(self) -> None:
        cv2.setNumThreads(0)  # the workers are the parallelism
        for name in {"SIGINT", "SIGHUP"} & set(dir(signal)):  # a terminal sends them to the workers too
            signal.signal(getattr(signal, name), signal.SIG_IGN)
        if hasattr(signal, "sigwaitinfo"):
            signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
            Thread(target=_end_for, args=[os.getppid()], daemon=True).start()

    def create_batch(self, samples: list[tuple]) -> tuple:
        "fastai's, with the photos left in channels-last memory; fastai would copy each into another layout."
        if not isinstance(samples[0][0], TensorImage):
            return super().create_batch(samples)
        photos, *rest = super().create_batch([(photo.permute(1, 2, 0), *rest) for photo, *rest in samples])
        return photos.permute(0, 3, 1, 2), *rest

    def __iter__(self) -> Iterator[tuple]:
        "fastai's, but the host does not wait for a copy from pinned memory: the GPU computes after it."
        self.randomize()
        self.before_iter()
        fake, tickets = self.fake_l, self.tickets(self.get_idxs())
        options = LoadingOptions(fake.num_workers, fake.pin_memory, fake.timeout)
        for batch in self.workers.batches(
            self.load, tickets, self._given(), self.wif, self.sampler_state.seed, options
        ):
            if batch is None:
                continue
            if self.mark:
                self.mark("data_wait")
            yield self.after_batch(to_device(tuple(batch), self.device, non_blocking=True))
        self.after_iter()

    def _given(self) -> list[Any]:
        "All that `load` depends on besides its arguments. A ticket has the epoch, which changes in `sampler_state`."
        own = [self.dataset, self.after_item, self.before_batch]
        return own + [value for name, value in vars(self).items() if name in self._methods]

    def to_detach(self, batch: Any, cpu: bool = True, gather: bool = True) -> Any:
        "fastai's, but a loss or metric stays on its device. The host asks for it once an epoch, not at every batch."
        if isinstance(batch, torch.Tensor) and batch.dim() == 0:
            return batch.detach()
        return to_detach(batch, cpu=cpu, gather=False)  # ranks that predict have the same photos


def _end_for(parent: int) -> None:
    "End this worker at a SIGTERM from its parent only. After any other, the present step still needs its photos."
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != parent:
        pass
    os._exit(0)
