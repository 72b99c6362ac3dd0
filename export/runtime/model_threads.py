"""Threads that run a model and do nothing else."""

from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np

from export.runtime.buffers import OUTPUTS
from toolkit.threads import threads

if TYPE_CHECKING:
    import onnxruntime


@contextmanager
def model_threads(
    session: "onnxruntime.InferenceSession", count: int, black: np.ndarray | None, options: "onnxruntime.RunOptions"
) -> Iterator[Callable[..., Future]]:
    """Yield a function that has one of `count` threads run the model; for 0 the calling thread does.

    black: a batch on which each thread first runs the model, so that its cuDNN and cuBLAS handles exist when the first
    photos have been read. None for a few photos: they would take less time than this.
    """
    with threads(count) as run:
        if black is not None:
            for _ in range(count):
                run(session.run, OUTPUTS, {"image": black}, options)
        yield run
