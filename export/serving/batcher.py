"""Batches of photos across requests.

Photos of all requests wait in one queue. Threads decode and crop them; other threads take what is ready, at most a
batch, and run the model. While the model is busy, photos gather, so that batches form by themselves under load; a lone
photo waits for nobody. Outcomes go back to the event loop once a batch.
"""

import asyncio
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from export.ensemble import Ensemble
from export.reading.prepare import prepared_each
from export.serving.job import Job, Photo, Unreadable, deliver
from export.serving.limits import check_pixels
from export.serving.metrics import Metrics
from export.session import Classifier
from toolkit.machine import cores

if TYPE_CHECKING:
    from onnxruntime import RunOptions

GATHER = 0.005
"Seconds that a batch which is not full waits for photos that are being decoded."


class Batcher:
    "Threads that decode photos and run the model, from `start` to `close`."

    def __init__(self, model: Classifier | Ensemble, runners: int, max_pixels: int, metrics: Metrics):
        "runners: threads that run the model."
        import onnxruntime

        self.model, self.runners, self.max_pixels, self.metrics = model, runners, max_pixels, metrics
        self.sizes = model.sizes if isinstance(model, Ensemble) else [model.card.preprocess]
        self.waiting: deque[tuple[Job, int]] = deque()
        self.ready: deque[tuple[Job, int, list[np.ndarray]]] = deque()
        self.decoding, self.closed = 0, False
        self.failure: Exception | None = None  # of the first run
        lock, self.turn = threading.Lock(), threading.Lock()  # turn: one thread at a time gathers a batch
        self.photo_came, self.photo_ready = threading.Condition(lock), threading.Condition(lock)
        self.stop: RunOptions = onnxruntime.RunOptions()
        self.threads: list[threading.Thread] = []

    def start(self) -> None:
        "Start the threads; return when each that runs the model has run it once. Raises what the model raises."
        Image.init()  # else Pillow loads its formats with the first photo
        warm = [threading.Event() for _ in range(self.runners)]
        for event in warm:
            self._start(self._run_batches, event)
        for _ in range(cores()):
            self._start(self._decode_photos)
        for event in warm:
            event.wait()
        if self.failure is not None:
            self.close()
            raise self.failure

    def close(self) -> None:
        "End the threads, and the model if it runs. Jobs that are not done never will be."
        with self.photo_came:
            self.closed = self.stop.terminate = True
            self.photo_came.notify_all()
            self.photo_ready.notify_all()
        for thread in self.threads:
            thread.join()

    async def answers(self, photos: Sequence[Photo]) -> list[Any]:
        """The outcome of each photo: the model's answer, or Unreadable. If the caller is cancelled, photos that have
        not been decoded yet are dropped.

        Raises what the model raised, if it failed.
        """
        job = Job(photos, asyncio.get_running_loop().create_future())
        with self.photo_came:
            self.waiting.extend((job, index) for index in range(len(photos)))
            self.photo_came.notify(len(photos))
        return await job.done

    def _start(self, target: Callable, *arguments: Any) -> None:
        self.threads.append(threading.Thread(target=target, args=arguments))
        self.threads[-1].start()

    # Threads that decode

    def _decode_photos(self) -> None:
        while (taken := self._next_photo()) is not None:
            job, index = taken
            images = outcome = None
            try:
                images = self._decoded(job.photos[index]) if not job.done.done() else None
            except (ValueError, OSError) as error:
                outcome = Unreadable(str(error).removeprefix("<bytes>: "))
            except Exception as error:  # a bug
                outcome = error
            with self.photo_ready:
                self.decoding -= 1
                if images is not None:
                    self.ready.append((job, index, images))
                self.photo_ready.notify()
            if outcome is not None:
                self._deliver([(job, index, outcome)])

    def _next_photo(self) -> tuple[Job, int] | None:
        "The photo that has waited longest; None after `close`."
        with self.photo_came:
            while not self.waiting and not self.closed:
                self.photo_came.wait()
            if self.closed:
                return None
            self.decoding += 1
            return self.waiting.popleft()

    def _decoded(self, photo: Photo) -> list[np.ndarray]:
        "The photo as each file of the model takes it. Raises ValueError if it can't be read."
        if isinstance(photo, np.ndarray):
            return [photo]
        started = time.perf_counter()
        check_pixels(photo, self.max_pixels)
        images = prepared_each(photo, self.sizes)
        self.metrics.decoding.inc(time.perf_counter() - started)
        return images

    # Threads that run the model

    def _run_batches(self, warm: threading.Event) -> None:
        try:
            buffer = self.model.buffer(workers=1)
            self.model.warm_up(self.stop)
        except Exception as error:
            self.failure = error
            return
        finally:
            warm.set()
        targets = buffer.images if isinstance(self.model, Ensemble) else [buffer.images]
        while batch := self._next_batch():
            for place, (_, _, images) in enumerate(batch):
                for target, image in zip(targets, images, strict=True):
                    target[place] = image
            started = time.perf_counter()
            try:
                outcomes = list(self.model.answers(buffer, len(batch), self.stop))
            except Exception as error:
                outcomes = [error] * len(batch)
            self.metrics.computing.inc(time.perf_counter() - started)
            self.metrics.batches.observe(len(batch))
            self._deliver([(job, index, each) for (job, index, _), each in zip(batch, outcomes, strict=True)])

    def _next_batch(self) -> list[tuple[Job, int, list[np.ndarray]]]:
        "The photos that are ready, at most a batch; empty after `close`."
        with self.turn, self.photo_ready:
            while not self.ready and not self.closed:
                self.photo_ready.wait()
            latest = time.monotonic() + GATHER
            while len(self.ready) < self.model.bs and (self.decoding or self.waiting) and not self.closed:
                if (left := latest - time.monotonic()) <= 0:
                    break
                self.photo_ready.wait(left)
            count = 0 if self.closed else min(self.model.bs, len(self.ready))
            return [self.ready.popleft() for _ in range(count)]

    # Back to the event loop

    def _deliver(self, outcomes: list[tuple[Job, int, Any]]) -> None:
        loop = outcomes[0][0].done.get_loop()
        if not loop.is_closed():  # after a second Ctrl-C
            loop.call_soon_threadsafe(deliver, outcomes)
