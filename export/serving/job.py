"""The photos of one request on their way through the batcher."""

import asyncio
from collections.abc import Sequence
from typing import Any

import numpy as np

Photo = bytes | np.ndarray
"A file's bytes, or a prepared image, uint8 [crop, crop, 3] RGB."


class Unreadable(Exception):
    "A photo can't be read; the message says why."


class Job:
    "The photos of one request: the outcome of each, an answer or Unreadable, and how many are left."

    def __init__(self, photos: Sequence[Photo], done: asyncio.Future):
        self.photos, self.done = photos, done
        self.outcomes: list[Any] = [None] * len(photos)
        self.left = len(photos)


def deliver(outcomes: list[tuple[Job, int, Any]]) -> None:
    "Record outcomes, in the event loop; a job whose last one this is, or whose model failed, is done."
    for job, index, outcome in outcomes:
        job.outcomes[index] = outcome
        job.left -= 1
        if job.done.done():  # the client left, or another of its photos failed
            continue
        if isinstance(outcome, Exception) and not isinstance(outcome, Unreadable):
            job.done.set_exception(outcome)
        elif job.left == 0:
            job.done.set_result(job.outcomes)
