"""Worker processes that load mini-batches: torch's, kept from one pass over the photos to the next during a fit."""

import copyreg
import gc
import hashlib
import pickle
import random
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
from fastai.data.core import DataLoaders
from torch.utils.data import DataLoader, Dataset, get_worker_info

from toolkit.data.transforms import SamplerState

METHOD = "fork" if sys.platform == "linux" else None
"""The start method of workers. Beside an H100, 16 of them are ready in 0.3 s by fork, in 5 s by spawn, by forkserver in
12 s the first time and then in 0.3 s: these two import torch and fastai again (26 Nov 2026, torch 2.11)."""


class Ticket(NamedTuple):
    "A mini-batch that is to be loaded."

    epoch: int
    samples: list[int]


class Batches(Dataset):
    """The mini-batch of a Ticket, loaded by `load(epoch, samples)`.

    A worker seeds its generators by the ticket, so that what a transform draws from them depends neither on how long
    the worker lives nor on how many there are.
    """

    def __init__(self, load: Callable[[int, list[int]], Any], seed: int):
        self.load, self.seed = load, seed

    def __getitem__(self, ticket: Ticket) -> Any:
        if get_worker_info() is not None:
            _seed(np.random.default_rng((self.seed, ticket.epoch, ticket.samples[0])).integers(2**32))
        return self.load(*ticket)


def _seed(number: int) -> None:
    "Seed Python's, numpy's and torch's generators; not CUDA's, as fastai's set_seed does: a worker has none."
    random.seed(int(number))
    np.random.seed(number)
    torch.manual_seed(int(number))


class Workers:
    """The processes that load mini-batches for one loader.

    A pass starts them anew, unless the passes of a fit `keep` them: then they stay as long as what they were given,
    `given`, is the same to the byte. Each ticket says all else that a mini-batch depends on. To compare takes 2 us a
    photo, which take a GPU 100 at least. A pass that is begun inside another one has workers of its own.
    """

    def __init__(self):
        self.keep, self.loader, self.started_with, self.busy = False, None, None, False

    def __getstate__(self) -> dict[str, Any]:
        "Processes can't be copied or pickled."
        return vars(Workers())

    def batches(
        self,
        load: Callable[[int, list[int]], Any],
        tickets: list[Ticket],
        given: Any,
        begin: Callable[[], None],
        seed: int,
        **options: Any,
    ) -> Iterator[Any]:
        """The mini-batch of each ticket, in order.

        begin: what a worker does first. seed: of the workers' generators, with the ticket; this process's own are not
        drawn from, so that they are the same whether workers are new or kept. options: num_workers, pin_memory and
        timeout, as torch's DataLoader has them.
        """
        digest = _digest((given, options)) if self.keep and options["num_workers"] else None
        if digest is None or self.busy:
            yield from _pass(_loader(load, begin, seed, False, options), tickets)
            return
        if digest != self.started_with:
            self.end()
            self.loader, self.started_with = _loader(load, begin, seed, True, options), digest
        self.busy = True
        try:
            yield from _pass(self.loader, tickets)
        except GeneratorExit:  # the pass was cut short; the workers are sound
            raise
        except BaseException:
            self.end()
            raise
        finally:
            self.busy = False

    def end(self) -> None:
        "End the processes, if there are any."
        self.loader = self.started_with = None


@contextmanager
def kept_workers(dls: DataLoaders) -> Iterator[None]:
    "Within it the loaders keep their worker processes from pass to pass; in the end these are ended."
    workers = [loader.workers for loader in dls.loaders if hasattr(loader, "workers")]
    for each in workers:
        each.keep = True
    try:
        yield
    finally:
        for each in workers:
            each.keep = False
            each.end()


def _pass(loader: DataLoader, tickets: list[Ticket]) -> Iterator[Any]:
    loader.sampler[:] = tickets
    with _uncollected():
        batches = iter(loader)
    yield from batches


def _loader(load: Callable, begin: Callable, seed: int, kept: bool, options: dict[str, Any]) -> DataLoader:
    several = options["num_workers"] > 0
    return DataLoader(
        Batches(load, seed),
        batch_size=None,
        sampler=[],
        collate_fn=_unchanged,
        generator=torch.Generator(),  # else torch draws from its global one
        worker_init_fn=partial(_begin, begin, gc.isenabled()) if several else None,
        persistent_workers=kept,
        multiprocessing_context=METHOD if several else None,
        **options,
    )


def _unchanged(batch: Any) -> Any:
    return batch


@contextmanager
def _uncollected() -> Iterator[None]:
    """Processes forked within it begin without Python's collector, and so never collect the garbage of this one.

    A cycle of garbage may hold memory of CUDA. To free it in a worker, which has no CUDA, aborts the worker: torch says
    "DataLoader worker (pid 4244) is killed by signal: Aborted" after "CUDA error: initialization error" (torch 2.11).
    """
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def _begin(begin: Callable[[], None], collect: bool, number: int) -> None:
    "A worker's first steps: whatever it was forked with is never collected, whatever it makes is."
    gc.freeze()
    if collect:
        gc.enable()
    begin()


# What workers were given


class _Checksum:
    "A file that keeps the checksum of what is written to it."

    def __init__(self):
        self.hash = hashlib.blake2b(digest_size=16)

    def write(self, data: bytes) -> None:
        self.hash.update(data)


class _Pickler(pickle.Pickler):
    "It takes the seed alone of SamplerState: a ticket says the epoch."

    dispatch_table = copyreg.dispatch_table | {SamplerState: lambda draws: (SamplerState, (draws.seed,))}


def _digest(value: Any) -> bytes | None:
    "A checksum of `value` by its pickle; None if it can't be pickled, as a lambda can't."
    checksum = _Checksum()
    try:
        _Pickler(checksum, protocol=5).dump(value)
    except Exception:  # a user's own objects may raise anything
        return None
    return checksum.hash.digest()
