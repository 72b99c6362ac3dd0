"""Threads that run a model and do nothing else."""

from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager

from toolkit.threads import threads


@contextmanager
def model_threads(warm_up: Callable[[], object] | None, count: int) -> Iterator[Callable[..., Future]]:
    """Yield a function that has one of `count` threads run the model; for 0 the calling thread does.

    warm_up: each thread calls it first, to run the model, so that its cuDNN and cuBLAS handles exist when the first
    photos have been read. None for a few photos: they would take less time than this.
    """
    with threads(count) as run:
        if warm_up is not None:
            for _ in range(count):
                run(warm_up)
        yield run
