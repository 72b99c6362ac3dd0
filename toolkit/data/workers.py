"""torch's worker processes that load batches. A fit keeps them from one pass over the photos to the next."""

import copyreg
import gc
import hashlib
import pickle
import random
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
import torch
from fastai.data.core import DataLoaders
from fastcore.basics import noop
from torch.utils.data import DataLoader, Dataset, get_worker_info

from toolkit.data.transforms import SamplerState

START_METHOD = "fork" if sys.platform == "linux" else None
"""How workers are started. On a machine with an H100, fork has 16 of them ready in 0.3 s and spawn in 5 s. forkserver
takes 12 s the first time, then 0.3 s. The last two import torch and fastai again (26 Nov 2026, torch 2.11)."""


class Ticket(NamedTuple):
    "An order for a batch."

    epoch: int
    samples: list[int]


@dataclass(frozen=True)
class LoadingOptions:
    "Options of torch's DataLoader, by its names."

    num_workers: int
    pin_memory: bool = False
    timeout: float = 0


class Batches(Dataset):
    """Batches by Ticket, loaded by `load(epoch, samples)`.

    A worker seeds its generators by the ticket. So what a transform draws from them depends neither on the age of the
    worker nor on the number of workers.
    """

    def __init__(self, load: Callable[[int, list[int]], Any], seed: int):
        self.load, self.seed = load, seed

    def __getitem__(self, ticket: Ticket) -> Any:
        if get_worker_info() is not None:
            _seed(np.random.default_rng((self.seed, ticket.epoch, ticket.samples[0])).integers(2**32))
        return self.load(*ticket)


def _seed(number: int) -> None:
    "Seed the generators of Python, numpy and torch. fastai's set_seed also seeds CUDA's, which a worker does not have."
    random.seed(int(number))
    np.random.seed(number)
    torch.manual_seed(int(number))


class Workers:
    """The processes that load batches for one data loader.

    Each pass starts new ones. If `keep` is set, as during a fit, they stay while `given`, the objects that they were
    started with, is the same to the byte. A ticket has all else that a batch depends on. The comparison takes 2 us per
    photo; a GPU takes at least 100 us per photo. A pass that starts inside another one has its own workers.
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
        on_start: Callable[[], None],
        seed: int,
        options: LoadingOptions,
    ) -> Iterator[Any]:
        """Yield the batch of each ticket, in order.

        load(epoch, samples): returns a batch. given: all else that `load` depends on. on_start: a worker calls it
        first. seed: it seeds the workers' generators, together with the ticket. This process's own generators are not
        drawn from, so that they are the same whether workers are new or kept.
        """
        digest = _digest((given, options)) if self.keep and options.num_workers else None
        if digest is None or self.busy:
            yield from _run_pass(_loader(load, on_start, seed, False, options), tickets)
            return
        if digest != self.started_with:
            self.end()
            self.loader, self.started_with = _loader(load, on_start, seed, True, options), digest
        self.busy = True
        try:
            yield from _run_pass(self.loader, tickets)
        except GeneratorExit:  # the caller ended the pass early; the workers are sound
            raise
        except BaseException:
            self.end()
            raise
        finally:
            self.busy = False

    def end(self) -> None:
        "End the processes, if any."
        self.loader = self.started_with = None


@contextmanager
def kept_workers(dls: DataLoaders) -> Iterator[None]:
    "A context in which the data loaders keep their worker processes from pass to pass. They end with it."
    workers = [loader.workers for loader in dls.loaders if hasattr(loader, "workers")]
    for each in workers:
        each.keep = True
    try:
        yield
    finally:
        for each in workers:
            each.keep = False
            each.end()


def _run_pass(loader: DataLoader, tickets: list[Ticket]) -> Iterator[Any]:
    loader.sampler[:] = tickets
    with _uncollected():
        batches = iter(loader)
    yield from batches


def _loader(load: Callable, on_start: Callable, seed: int, kept: bool, options: LoadingOptions) -> DataLoader:
    several = options.num_workers > 0
    return DataLoader(
        Batches(load, seed),
        batch_size=None,
        sampler=[],
        collate_fn=noop,
        generator=torch.Generator(),  # else torch draws from its global one
        worker_init_fn=partial(_start_worker, on_start, gc.isenabled()) if several else None,
        persistent_workers=kept,
        multiprocessing_context=START_METHOD if several else None,
        **vars(options),
    )


@contextmanager
def _uncollected() -> Iterator[None]:
    """A context in which Python's garbage collector is off, so that a forked process never collects this one's garbage.

    A cycle of garbage may hold CUDA memory. A worker has no CUDA, and freeing it there aborts the worker: torch says
    "DataLoader worker (pid 4244) is killed by signal: Aborted" after "CUDA error: initialization error" (torch 2.11).
    """
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def _start_worker(on_start: Callable[[], None], collect: bool, number: int) -> None:
    "Have the new worker `number` collect garbage of its own, but nothing that it was forked with; call `on_start`."
    gc.freeze()
    if collect:
        gc.enable()
    on_start()


# The comparison of what workers were started with


class _Pickler(pickle.Pickler):
    "A pickler that takes only the seed of SamplerState: a ticket has the epoch."

    dispatch_table = copyreg.dispatch_table | {SamplerState: lambda draws: (SamplerState, (draws.seed,))}


def _digest(value: Any) -> bytes | None:
    "A checksum of the pickle of `value`; None if it can't be pickled, as a lambda can't."
    checksum = hashlib.blake2b(digest_size=16)
    try:
        _Pickler(SimpleNamespace(write=checksum.update), protocol=5).dump(value)  # nothing keeps the pickle itself
    except Exception:  # objects of a user may raise anything
        return None
    return checksum.digest()
